# mailtrail action, version 2: shows in Odoo what became of its mail.
# `mailtrail setup odoo` writes this code, and replaces it when it comes with another version: changes are lost.
#
# The context brings mailtrail_events, a list of dictionaries:
#   message_id    as in mail.message, with its brackets
#   email         the recipient, in lower case
#   status        'pending', 'sent', 'bounce' or 'exception': the state of the mail, if that is to be shown
#   reason        the text of the reply or the report that caused it
#   at            when it happened: UTC, 'YYYY-MM-DD HH:MM:SS', as all times here
#   opened        when it was opened first, clicked: when a link was
#   complained    True where the address is to be blacklisted
#   unsubscribed  'opt-out' (of the mailing's lists, or else blacklisted) or 'blacklist'
#   note          True where a note on the record is wanted
#   young         True while Odoo may have sent the mail in a transaction that is not committed yet
# The answer is action = {'version': 2, 'results': [...]}, for each event 'changed', 'unchanged', 'unknown' (Odoo has
# no such message) or 'later' (nothing was changed; the event is to come again).
#
# It may also bring mailtrail_refusal, the text with which mailtrail ends sessions when it stops. Failed mails of the
# last day with that text become outgoing again.
#
# Events come at least once, in any order. So a status only ever replaces one of lower rank, a bounce is counted
# when the first status becomes one, and times only become earlier.
#
# A transaction of Odoo's that sends mail writes the mail's notifications and traces after the mail server has them. A
# row that is written by another transaction meanwhile makes it fail, and Odoo sends its mail again. So rows of a mail
# that Odoo may still be sending are not written, and each row is locked, without waiting, before it is. Odoo's
# safe_eval allows no closures, no `with`, no imports and no attributes to be set.

DELIVERED = 'mailtrail: delivered'
RANKS = {'pending': 1, 'exception': 2, 'sent': 3, 'bounce': 4, 'canceled': 5}
UNSENT = ('outgoing', 'process', 'pending')
UNSENT_NOTIFICATION = ('ready', 'process')
# What PostgreSQL raises when another transaction is in the way.
COLLISIONS = ('SerializationFailure', 'LockNotAvailable', 'DeadlockDetected', 'UniqueViolation')


def find_records(events):
    """The notifications and traces of each event's message and address, as ([], [])."""
    found = {}
    for event in events:
        found[(event['message_id'], event['email'])] = ([], [])
    message_ids = [event['message_id'] for event in events]
    emails = [event['email'] for event in events]
    messages = {}
    for message in env['mail.message'].sudo().search([('message_id', 'in', message_ids)]):
        messages[message.id] = message.message_id
    notifications = env['mail.notification'].sudo().search([
        ('mail_message_id', 'in', list(messages)),
        ('res_partner_id.email_normalized', 'in', emails),
        ('notification_type', '=', 'email'),
    ])
    for notification in notifications:
        key = (messages[notification.mail_message_id.id], notification.res_partner_id.email_normalized)
        if key in found:
            found[key][0].append(notification)
    if 'mailing.trace' in env:
        for trace in env['mailing.trace'].sudo().search([('message_id', 'in', message_ids)]):
            key = (trace.message_id, (trace.email or '').strip().lower())
            if key in found:
                found[key][1].append(trace)
    return found, set(messages.values())


def rank_of(notification):
    status = notification.notification_status
    if status == 'sent' and notification.failure_reason != DELIVERED:
        # Odoo's own: it says only that the mail server took the mail.
        return 0
    return RANKS.get(status, 0)


def values_of_notification(notification, event):
    status = event.get('status')
    if status not in STATES or rank_of(notification) >= RANKS[status]:
        return {}
    values = {'notification_status': status, 'failure_type': False, 'failure_reason': False}
    if status == 'sent':
        values['failure_reason'] = DELIVERED
    if status in ('bounce', 'exception'):
        values['failure_type'] = 'mail_bounce' if status == 'bounce' else 'unknown'
        values['failure_reason'] = event.get('reason') or status
    return values


def is_earlier(known, time):
    return time and (not known or str(known)[:19] > time)


def values_of_trace(trace, event):
    before = trace.trace_status
    if before == 'cancel':
        return {}
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
    if is_earlier(trace.open_datetime, opened):
        values['open_datetime'] = opened
    if is_earlier(trace.links_click_datetime, event.get('clicked')):
        values['links_click_datetime'] = event['clicked']
    return values


def is_being_sent(record, event):
    """Whether a transaction of Odoo's that is not committed yet may write the record."""
    mail = record.mail_mail_id
    if mail and mail.state == 'outgoing':
        return True
    if record._name == 'mail.notification':
        unsent = record.notification_status in UNSENT_NOTIFICATION
    else:
        unsent = record.trace_status in UNSENT
    return bool(unsent and event.get('young'))


def changes_of(event):
    """Each record that the event changes, with its values; None while Odoo may still be sending one of them."""
    notifications, traces = FOUND[(event['message_id'], event['email'])]
    changes = []
    for record in notifications + traces:
        is_notification = record._name == 'mail.notification'
        values = values_of_notification(record, event) if is_notification else values_of_trace(record, event)
        if values:
            if is_being_sent(record, event):
                return None
            changes.append((record, values))
    return changes


def is_collision(error):
    return repr(error).split('(')[0] in COLLISIONS


def lock_rows(model, ids):
    """Locks rows without waiting. Returns the ids of those that could be locked as this transaction sees them."""
    if not ids:
        return []
    query = 'SELECT id FROM ' + env[model]._table + ' WHERE id IN %s FOR NO KEY UPDATE SKIP LOCKED'
    savepoint = env.cr.savepoint(flush=False)
    try:
        env.cr.execute(query, [tuple(ids)], log_exceptions=False)
        locked = [row[0] for row in env.cr.fetchall()]
        savepoint.close(rollback=False)
        return locked
    except Exception as error:
        savepoint.close(rollback=True)
        if not is_collision(error):
            raise
    # One of them was changed after this transaction began.
    locked = []
    if len(ids) > 1:
        for number in ids:
            locked += lock_rows(model, [number])
    return locked


def lock_records(records):
    """Locks records of one model; False where another transaction has one of them."""
    return len(lock_rows(records._name, records.ids)) == len(records.ids)


def count_bounce(email):
    """Counts a bounce of the address; False where another transaction is in the way."""
    counted = []
    for model in env['ir.model'].sudo().search([('is_mail_blacklist', '=', True)]):
        if model.model in env and not env[model.model]._abstract:
            records = env[model.model].sudo().search([('email_normalized', '=', email)])
            if not lock_records(records):
                return False
            counted.append(records)
    for records in counted:
        for record in records:
            record.write({'message_bounce': record.message_bounce + 1})
    return True


def blacklist(email, words):
    """Puts the address on the blacklist. True where it was not on it, None where another transaction is in the way."""
    entries = env['mail.blacklist'].sudo().with_context(active_test=False)
    entry = entries.search([('email', '=', email)], limit=1)
    if entry and entry.active:
        return False
    if entry:
        if not lock_records(entry):
            return None
        entry.action_add()
    else:
        entry = entries.create({'email': email})
    entry.message_post(body=words)
    return True


def opt_out(email, traces, words):
    """Opts the address out of the mailing's lists. The answer is that of blacklist."""
    model = 'mailing.subscription' if 'mailing.subscription' in env else 'mailing.contact.subscription'
    lists = []
    for trace in traces:
        lists += trace.mass_mailing_id.contact_list_ids.ids
    if not lists or model not in env:
        return blacklist(email, words)
    subscriptions = env[model].sudo().search([('contact_id.email_normalized', '=', email), ('list_id', 'in', lists)])
    if not subscriptions:
        return blacklist(email, words)
    if not lock_records(subscriptions):
        return None
    changed = False
    for subscription in subscriptions:
        if not subscription.opt_out:
            subscription.write({'opt_out': True})
            changed = True
    return changed


def add_note(notifications, words):
    for notification in notifications:
        message = notification.mail_message_id
        if message.model and message.model in env and message.res_id:
            record = env[message.model].sudo().browse(message.res_id).exists()
            if record and 'message_ids' in record._fields:
                record.message_post(body=words, subtype_xmlid='mail.mt_note')


def apply_to_address(event, notifications, traces, told, bounced):
    """What concerns the address, and not only this mail. True where it changed something, None to try again later."""
    email = event['email']
    reason = event.get('reason') or ''
    changed = False
    if bounced and not count_bounce(email):
        return None
    if event.get('complained'):
        words = 'mailtrail: %s reported mail as spam. %s' % (email, reason)
        done = blacklist(email, words)
        if done is None:
            return None
        if done:
            changed = True
            told.append(words)
    if event.get('unsubscribed'):
        words = 'mailtrail: %s unsubscribed. %s' % (email, reason)
        done = opt_out(email, traces, words) if event['unsubscribed'] == 'opt-out' else blacklist(email, words)
        if done is None:
            return None
        if done:
            changed = True
            told.append(words)
    if event.get('note') and told:
        add_note(notifications, told[0])
    return changed


def apply(event, changes):
    """Applies an event. None where another transaction is in the way: the caller takes back what was done."""
    notifications, traces = FOUND[(event['message_id'], event['email'])]
    status = event.get('status')
    told = []
    bounced = False
    for record, values in changes:
        bounced = bounced or 'bounce' in (values.get('notification_status'), values.get('trace_status'))
        record.write(values)
        if record._name == 'mail.notification' and status in ('bounce', 'exception'):
            ending = 'bounced' if status == 'bounce' else 'was given up'
            told.append('Mail to %s %s: %s' % (event['email'], ending, event.get('reason') or ''))
    done = apply_to_address(event, notifications, traces, told, bounced)
    if done is None:
        return None
    return bool(changes) or done


def apply_alone(event, changes):
    """Applies an event to more than its own rows, in a savepoint of its own."""
    savepoint = env.cr.savepoint()
    try:
        changed = apply(event, changes)
        savepoint.close(rollback=changed is None)
        return changed
    except Exception as error:
        savepoint.close(rollback=True)
        if not is_collision(error):
            raise
        return None


def result_of(event):
    changes = changes_of(event)
    if changes is None:
        return 'later'
    for record, values in changes:
        if record.id not in LOCKED[record._name]:
            return 'later'
    status_only = event.get('status') != 'bounce'
    for key in ('complained', 'unsubscribed', 'note'):
        status_only = status_only and not event.get(key)
    if changes or not status_only:
        changed = apply(event, changes) if status_only else apply_alone(event, changes)
        if changed is None:
            return 'later'
        for record, values in changes:
            if record._name == 'mail.notification':
                touched.append(record.mail_message_id.id)
        if changed:
            return 'changed'
    notifications, traces = FOUND[(event['message_id'], event['email'])]
    known = notifications or traces or event['message_id'] in KNOWN
    return 'unchanged' if known else 'unknown'


def lock_changes(events):
    """Locks the notifications and traces that the events change, all at once."""
    numbers = {'mail.notification': [], 'mailing.trace': []}
    for event in events:
        for record, values in changes_of(event) or []:
            numbers[record._name].append(record.id)
    locked = {}
    for model in numbers:
        locked[model] = lock_rows(model, numbers[model])
    return locked


def requeue(refusal):
    """Makes mails outgoing again that failed because mailtrail was stopping."""
    since = datetime.datetime.utcnow() - datetime.timedelta(days=1)
    failed = [('state', '=', 'exception'), ('failure_reason', 'like', refusal), ('write_date', '>=', since)]
    mails = env['mail.mail'].sudo()
    mails = mails.browse(lock_rows('mail.mail', mails.search(failed, limit=1000).ids))
    if mails:
        mails.mark_outgoing()
        queue = env.ref('mail.ir_cron_mail_scheduler_action', raise_if_not_found=False)
        if queue:
            queue.sudo()._trigger()
    return len(mails)


# Which there are depends on Odoo's version.
STATES = [state for state, label in env['mail.notification'].fields_get(['notification_status'])['notification_status']['selection']]
EVENTS = env.context.get('mailtrail_events') or []
# Whatever is waited for all the same is not waited for long: Odoo may wait for this transaction meanwhile.
env.cr.execute("SET LOCAL lock_timeout = '200ms'")
FOUND, KNOWN = find_records(EVENTS)
LOCKED = lock_changes(EVENTS)
touched = []
results = [result_of(event) for event in EVENTS]
if touched:
    env['mail.message'].sudo().browse(touched)._notify_message_notification_update()
requeued = requeue(env.context['mailtrail_refusal']) if env.context.get('mailtrail_refusal') else 0
action = {'version': 2, 'results': results, 'requeued': requeued}
