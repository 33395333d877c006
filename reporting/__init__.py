"""From Findings to DICOM result objects, and their delivery to the PACS."""
