"""A DICOMweb server that ignores `offset` gives the same page again: asking it comes to an end."""

from __future__ import annotations

import json
from typing import Any

import requests
from requests.adapters import BaseAdapter

from scp.pacs_query.dicomweb import DicomwebSource


class SamePage(BaseAdapter):
    """Answers every search with two matches, whatever the offset."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        self.asked += 1
        assert self.asked < 10, "it is asked for ever"
        tags = {"StudyInstanceUID": "0020000D", "SeriesInstanceUID": "0020000E", "SOPInstanceUID": "00080018"}
        matches = [
            {tag: {"vr": "UI", "Value": [f"1.2.{number}"]} for tag in tags.values()} for number in (1, 2)
        ]
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, str(request.url)
        response.headers["Content-Type"] = "application/dicom+json"
        response._content = json.dumps(matches).encode()
        return response

    def close(self) -> None:
        """Nothing is open."""


def test_every_search_ends() -> None:
    for search in (
        lambda source: source.studies(""),
        lambda source: source.series("1.2"),
        lambda source: source.instances("1.2", "1.2.1"),
    ):
        server, session = SamePage(), requests.Session()
        session.mount("http://pacs", server)
        assert len(search(DicomwebSource("http://pacs/dicom-web", session))) == 2
        assert server.asked == 2
