"""Submits messages as Odoo does: its client library, its commands in its order.

    odoo_smtplib.py HOST PORT USER PASSWORD < jobs > results

A job is a line of JSON: {"mail_from", "options", "rcpts", "message": path, "wire": path or null}. The result of each
is a line of JSON: {"mail": [code, text], "rcpts": [...], "data": [code, text]}. `wire` is what a real Odoo put on the
wire; it must be what this library sends.
"""

import json
import smtplib
import sys

host, port, user, password = sys.argv[1:5]
smtp = smtplib.SMTP(host, int(port), timeout=60)
smtp.ehlo("[127.0.0.1]")
smtp.starttls()
smtp.ehlo("[127.0.0.1]")
smtp.login(user, password)


def answer(reply):
    return [reply[0], reply[1].decode()]


for line in sys.stdin:
    job = json.loads(line)
    with open(job["message"], "rb") as file:
        message = file.read()
    if job["wire"]:
        with open(job["wire"], "rb") as file:
            assert smtplib._quote_periods(message) == file.read(), job["wire"]
    result = {"mail": answer(smtp.mail(job["mail_from"], job["options"]))}
    result["rcpts"] = [answer(smtp.rcpt(rcpt)) for rcpt in job["rcpts"]]
    result["data"] = answer(smtp.data(message))
    print(json.dumps(result), flush=True)
smtp.quit()
