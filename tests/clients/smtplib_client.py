"""Sends one mail with Python's standard library.

    smtplib_client.py starttls|implicit|open HOST PORT USER PASSWORD CERTIFICATE FROM TO
"""

import smtplib
import ssl
import sys
from email.message import EmailMessage

way, host, port, user, password, certificate, sender, recipient = sys.argv[1:]
message = EmailMessage()
message["From"] = sender
message["To"] = recipient
message["Subject"] = "smtplib"
message.set_content(way)

trust = ssl.create_default_context(cafile=certificate)
if way == "implicit":
    smtp = smtplib.SMTP_SSL(host, int(port), timeout=30, context=trust)
else:
    smtp = smtplib.SMTP(host, int(port), timeout=30)
if way == "starttls":
    smtp.starttls(context=trust)
if way != "open":
    smtp.login(user, password)
smtp.send_message(message)
smtp.quit()
