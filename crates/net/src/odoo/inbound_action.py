# mailtrail inbound action, version 1: hands mail from outside to Odoo's mail gateway.
# `mailtrail setup odoo --inbound` writes this code, and replaces it when it comes with another version: changes are lost.
#
# The context brings mailtrail_message, the base64 of one message (RFC 5322). The gateway runs as OdooBot, as it does
# for mail that Odoo fetches itself: an ordinary user may neither create every record nor write aliases.
# The answer is action = {'version': 1, 'record': the number of the record, or False where Odoo added nothing}.

message = env.context.get('mailtrail_message')
record = False
if message:
    gateway = env['mail.thread'].with_context({}).with_user(env.ref('base.user_root'))
    record = gateway.message_process(False, b64decode(message))
action = {'version': 1, 'record': record or False}
