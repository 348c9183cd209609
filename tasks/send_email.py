"""An e-mail, handed to a mail server or written to a folder; done twice, it is still one message."""

from __future__ import annotations

import os
import smtplib
from datetime import timedelta
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import Field

from taskrunner import Task, register_task

# No line breaks: nobody adds headers of their own.
Address = Annotated[str, Field(pattern=r"^[^@\s<>,;]+@[^@\s<>,;]+$", max_length=254)]
Line = Annotated[str, Field(pattern=r"^[^\r\n]*$", max_length=900)]


@register_task("SendEmail", queue="mail", max_retries=5, timeout=timedelta(seconds=30))
class SendEmail(Task):
    """Send one e-mail: to the server of SMTP_URL, without one to a file in the folder OUTBOX (default `outbox`).

    A task may run twice when its runner dies. The Message-ID and the file's name are made from the task's id, so that
    the second run writes the same file, and mail programs can tell that they have the message already.
    """

    to: Address
    subject: Line = "Hello"
    body: str = ""

    def run(self) -> dict[str, str]:  # a plain `def` runs in a thread: smtplib blocks
        message = self._compose()
        server = os.environ.get("SMTP_URL")
        sent_to = _send(server, message) if server else _write(message, f"{self.id}.eml")
        return {"message_id": message["Message-ID"], "sent_to": sent_to}

    def _compose(self) -> EmailMessage:
        message = EmailMessage()
        message["From"] = os.environ.get("MAIL_FROM", "taskrunner@localhost")
        message["To"] = self.to
        message["Subject"] = self.subject
        message["Date"] = formatdate()
        message["Message-ID"] = f"<{self.id}@taskrunner>"
        message.set_content(self.body)
        return message


def _send(url: str, message: EmailMessage) -> str:
    """Hand the message to `smtp://user:password@host:587` (STARTTLS where offered) or `smtps://…`."""
    server = urlsplit(url)
    if server.scheme not in ("smtp", "smtps") or not server.hostname:
        raise ValueError("SMTP_URL must look like smtp://user:password@host:587 or smtps://host")
    tls = server.scheme == "smtps"
    connect, port = (smtplib.SMTP_SSL, 465) if tls else (smtplib.SMTP, 25)
    with connect(server.hostname, server.port or port, timeout=20) as smtp:
        smtp.ehlo()
        if not tls and smtp.has_extn("starttls"):
            smtp.starttls()
        if server.username:
            smtp.login(unquote(server.username), unquote(server.password or ""))
        smtp.send_message(message)
    return f"{server.hostname}:{server.port or port}"


def _write(message: EmailMessage, name: str) -> str:
    """Write the message where no mail program sees half of it."""
    folder = Path(os.environ.get("OUTBOX", "outbox"))
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}.part"
    draft.write_bytes(bytes(message))
    return str(draft.replace(folder / name))
