"""The key object selection marks the key slices and nothing else."""

from __future__ import annotations

from reporting import ReportContext, build


def test_key_slices_are_marked(case, context: ReportContext, reread) -> None:
    findings, volume = case
    (kos,) = build(findings, volume, context, ("kos",))
    dataset = reread(kos)
    marked = set()
    for item in dataset.ContentSequence:
        if item.ValueType == "IMAGE":
            reference = item.ReferencedSOPSequence[0]
            frames = reference.get("ReferencedFrameNumber", [None])
            for frame in [frames] if isinstance(frames, int) else list(frames):
                marked.add((reference.ReferencedSOPInstanceUID, frame))
    wanted = {
        (volume.sources[z].sop_instance_uid, volume.sources[z].frame_number) for z in findings.key_slices
    }
    assert marked == wanted
    assert dataset.ConceptNameCodeSequence[0].CodeMeaning == "Of Interest"
    texts = [i.TextValue for i in dataset.ContentSequence if i.ValueType == "TEXT"]
    assert any("NOT VERIFIED" in text for text in texts)
