# mailtrail action, version 1: shows in Odoo what became of its mail.
# `mailtrail setup odoo` writes this code, and writes it anew when it comes with another version: changes are lost.
#
# The context brings mailtrail_events, a list of dictionaries:
#   message_id    as in mail.message, with its brackets
#   email         the recipient, in lower case
#   status        'pending', 'sent', 'bounce' or 'exception': what the mail has come to, if that is to be shown
#   reason        the words behind it
#   at            when it happened: UTC, 'YYYY-MM-DD HH:MM:SS', as all times here
#   opened        when it was opened first, clicked: when a link was
#   complained    True where the address is to be blacklisted
#   unsubscribed  'opt-out' (of the mailing's lists, or else blacklisted) or 'blacklist'
#   note          True where a note on the record is wanted
# The answer is action = {'version': 1, 'results': [...]}, for each event 'changed', 'unchanged' or 'unknown'.
#
# Events come at least once, in any order. So a status only ever replaces one of lower rank, a bounce is counted
# when the first status becomes one, and times only become earlier. Odoo's safe_eval allows no closures, no `with`,
# no imports and no attributes to be set.

DELIVERED = 'mailtrail: delivered'
RANKS = {'pending': 1, 'exception': 2, 'sent': 3, 'bounce': 4, 'canceled': 5}
UNSENT = ('outgoing', 'process', 'pending')


def rank_of(notification):
    status = notification.notification_status
    if status == 'sent' and notification.failure_reason != DELIVERED:
        # Odoo's own: it says only that the mail server took the mail.
        return 0
    return RANKS.get(status, 0)


def notifications_of(event):
    return env['mail.notification'].sudo().search([
        ('mail_message_id.message_id', '=', event['message_id']),
        ('res_partner_id.email_normalized', '=', event['email']),
        ('notification_type', '=', 'email'),
    ])


def traces_of(event):
    found = []
    if 'mailing.trace' in env:
        for trace in env['mailing.trace'].sudo().search([('message_id', '=', event['message_id'])]):
            if (trace.email or '').strip().lower() == event['email']:
                found.append(trace)
    return found


def apply_to_notification(notification, event):
    status = event.get('status')
    if status not in STATES or rank_of(notification) >= RANKS[status]:
        return False
    values = {'notification_status': status, 'failure_type': False, 'failure_reason': False}
    if status == 'sent':
        values['failure_reason'] = DELIVERED
    if status in ('bounce', 'exception'):
        values['failure_type'] = 'mail_bounce' if status == 'bounce' else 'unknown'
        values['failure_reason'] = event.get('reason') or status
    notification.write(values)
    return True


def earlier(known, time):
    return time and (not known or str(known)[:19] > time)


def apply_to_trace(trace, event):
    before = trace.trace_status
    if before == 'cancel':
        return False
    status = event.get('status')
    opened = event.get('opened') or event.get('clicked')
    values = {}
    if status == 'bounce' and before not in ('bounce', 'reply'):
        values['trace_status'] = 'bounce'
        values['failure_type'] = 'mail_bounce'
    elif opened and (before in UNSENT or before in ('sent', 'error')):
        values['trace_status'] = 'open'
        values['failure_type'] = False
    elif status == 'exception' and (before in UNSENT or before == 'sent'):
        values['trace_status'] = 'error'
        values['failure_type'] = 'unknown'
    elif status == 'sent' and (before in UNSENT or before == 'error'):
        values['trace_status'] = 'sent'
        values['failure_type'] = False
    if 'failure_type' in values and 'failure_reason' in trace._fields:
        values['failure_reason'] = values['failure_type'] and (event.get('reason') or status)
    if status == 'sent' and not trace.sent_datetime:
        values['sent_datetime'] = event['at']
    if earlier(trace.open_datetime, opened):
        values['open_datetime'] = opened
    if earlier(trace.links_click_datetime, event.get('clicked')):
        values['links_click_datetime'] = event['clicked']
    if values:
        trace.write(values)
    return bool(values)


def count_bounce(email):
    for model in env['ir.model'].sudo().search([('is_mail_blacklist', '=', True)]):
        if model.model in env and not env[model.model]._abstract:
            for record in env[model.model].sudo().search([('email_normalized', '=', email)]):
                record.write({'message_bounce': record.message_bounce + 1})


def blacklist(email, words):
    entries = env['mail.blacklist'].sudo().with_context(active_test=False)
    entry = entries.search([('email', '=', email)], limit=1)
    if entry and entry.active:
        return False
    if entry:
        entry.action_add()
    else:
        entry = entries.create({'email': email})
    entry.message_post(body=words)
    return True


def opt_out(email, traces, words):
    model = 'mailing.subscription' if 'mailing.subscription' in env else 'mailing.contact.subscription'
    lists = []
    for trace in traces:
        lists += trace.mass_mailing_id.contact_list_ids.ids
    if not lists or model not in env:
        return blacklist(email, words)
    changed = False
    subscriptions = env[model].sudo().search([('contact_id.email_normalized', '=', email), ('list_id', 'in', lists)])
    if not subscriptions:
        return blacklist(email, words)
    for subscription in subscriptions:
        if not subscription.opt_out:
            subscription.write({'opt_out': True})
            changed = True
    return changed


def add_note(notifications, words):
    for message in notifications.mail_message_id:
        if message.model and message.model in env and message.res_id:
            record = env[message.model].sudo().browse(message.res_id).exists()
            if record and 'message_ids' in record._fields:
                record.message_post(body=words, subtype_xmlid='mail.mt_note')


def apply(event):
    notifications = notifications_of(event)
    traces = traces_of(event)
    email = event['email']
    reason = event.get('reason') or ''
    status = event.get('status')
    changed = bounced = False
    told = []
    for notification in notifications:
        if apply_to_notification(notification, event):
            changed = True
            touched.append(notification.mail_message_id.id)
            bounced = bounced or status == 'bounce'
            if status in ('bounce', 'exception'):
                told.append('Mail to %s %s: %s' % (email, 'bounced' if status == 'bounce' else 'was given up', reason))
    for trace in traces:
        before = trace.trace_status
        if apply_to_trace(trace, event):
            changed = True
            bounced = bounced or (trace.trace_status == 'bounce' and before != 'bounce')
    if bounced:
        count_bounce(email)
    if event.get('complained'):
        words = 'mailtrail: %s reported mail as spam. %s' % (email, reason)
        if blacklist(email, words):
            changed = True
            told.append(words)
    if event.get('unsubscribed'):
        words = 'mailtrail: %s unsubscribed. %s' % (email, reason)
        done = opt_out(email, traces, words) if event['unsubscribed'] == 'opt-out' else blacklist(email, words)
        if done:
            changed = True
            told.append(words)
    if event.get('note') and told:
        add_note(notifications, told[0])
    if changed:
        return 'changed'
    return 'unchanged' if notifications or traces else 'unknown'


# Which there are depends on Odoo's version.
STATES = [state for state, label in env['mail.notification'].fields_get(['notification_status'])['notification_status']['selection']]
touched = []
results = [apply(event) for event in env.context.get('mailtrail_events') or []]
if touched:
    env['mail.message'].sudo().browse(touched)._notify_message_notification_update()
action = {'version': 1, 'results': results}
