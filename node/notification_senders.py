"""Ways to send a notification: a webhook and e-mail."""

from __future__ import annotations

import json
import smtplib
import ssl
import urllib.request
from email.message import EmailMessage
from http.client import HTTPException

from node.configuration import MailConfiguration, NotificationConfiguration
from node.notifications import Letter, Sender

TIMEOUT_SECONDS = 10.0


def senders(configuration: NotificationConfiguration) -> list[Sender]:
    """What the configuration asks for; empty where it asks for nothing."""
    found: list[Sender] = []
    if configuration.webhook:
        found.append(webhook(configuration.webhook))
    if configuration.mail:
        found.append(mail(configuration.mail))
    return found


def webhook(url: str) -> Sender:
    """Posts a letter as JSON: occasion, at, node, subject, fields, and `text`, which chat services show."""

    def send(letter: Letter) -> None:
        content = json.dumps({**letter.data, "text": letter.body}).encode()
        request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method="POST")
        try:
            with urllib.request.urlopen(
                request, timeout=TIMEOUT_SECONDS
            ):  # HTTPError and URLError are OSErrors
                return
        except HTTPException as error:
            raise OSError(f"the webhook's answer is no HTTP: {type(error).__name__}") from error

    return send


def mail(configuration: MailConfiguration) -> Sender:
    """Sends a letter as plain text by SMTP."""

    def send(letter: Letter) -> None:
        message = EmailMessage()
        message["Subject"] = letter.subject
        message["From"] = configuration.sender
        message["To"] = ", ".join(configuration.recipients)
        message.set_content(letter.body)
        with smtplib.SMTP(configuration.host, configuration.port, timeout=TIMEOUT_SECONDS) as server:
            if configuration.starttls:
                server.starttls(context=ssl.create_default_context())
            if configuration.user is not None:
                server.login(configuration.user, configuration.password or "")
            server.send_message(message)  # SMTPException is an OSError

    return send
