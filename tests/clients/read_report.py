"""Reads a delivery status notification as Odoo 18 does and prints what it finds, a line each."""

import email
import email.policy
import sys

with open(sys.argv[1], "rb") as file:
    report = email.message_from_binary_file(file, policy=email.policy.SMTP)
parts = list(report.walk())
texts = [part for part in parts if part.get_content_type() == "text/plain"]
status = next(part for part in parts if part.get_content_type() == "message/delivery-status")
original = next(part for part in parts if part.get_content_type() in ("message/rfc822", "text/rfc822-headers"))
recipient = status.get_payload()[1]
header = email.message_from_bytes(original.get_payload(decode=True))
print(report.get_content_type(), report.get_param("report-type"))
print(report["From"].addresses[0].addr_spec)
print(report["To"].addresses[0].addr_spec)
print(report["In-Reply-To"])
print(texts[0].get_content().strip())
print(recipient["Final-Recipient"])
print(recipient["Action"])
print(recipient["Status"])
print(header["Message-ID"])
