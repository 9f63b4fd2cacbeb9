use crate::erase::address_matcher::AddressMatcher;
use crate::record::Record;
use mailtrail_mail::{
    DsnParameters, DsnRecipient, MessageId, Notify, OdooRecord, Ret, Timestamp, TrackingId,
};
use mailtrail_trail::suppression::{SuppressionChange, SuppressionChangeKind};
use mailtrail_trail::{
    AcceptedMessage, AttemptOutcome, AttemptStatus, Diagnostic, EventKind, EventReplay, EventSource,
    InboundOutcome, InboundRecord, InboundTransition, Message, OperatorAction, OperatorActionData,
    ProviderEvent, ReceivedEvent, RecipientResult,
};

const ADDRESS: &str = "ada@example.net";

fn diagnostic() -> Diagnostic {
    let text = |text: &str| Some(format!("{text} {ADDRESS}"));
    let (enhanced_status, host) = (Some("5.1.1".to_owned()), text("host"));
    Diagnostic {
        name: "RCPT".into(),
        code: Some(550),
        enhanced_status,
        text: text("no"),
        host,
        url: text("at"),
    }
}

fn sample_records() -> Vec<Record> {
    let received_at = Timestamp::from_millis(u64::MAX >> 16);
    let id = TrackingId::new(received_at, u128::MAX);
    let orcpt = Some(format!("rfc822;{ADDRESS}").into());
    let notify = Some(Notify { success: true, failure: false, delay: true });
    let message = Message {
        user: Some(ADDRESS.into()),
        peer: "2001:db8::1".parse().ok(),
        sender: ADDRESS.parse().ok(),
        message_id: MessageId::parse(&format!("<{ADDRESS}>")),
        subject: format!("\u{1f600} \"{ADDRESS}\"\\"),
        odoo_records: OdooRecord::parse("sale.order,42").into_iter().collect(),
        tags: vec![ADDRESS.into(), "x".into()],
        size: u64::MAX,
        dsn: DsnParameters {
            ret: Some(Ret::Headers),
            envid: Some(ADDRESS.into()),
            recipients: [(7, DsnRecipient { notify, orcpt })].into_iter().collect(),
        },
        body_fingerprint: Some(u64::MAX),
        route: Some("mailgun".into()),
        ..Message::new(id, "odoo")
    };
    let recipients = vec!["bob@example.org".parse().unwrap(), ADDRESS.parse().unwrap()];
    let settled = RecipientResult {
        recipients: vec![0, u16::MAX],
        status: AttemptStatus::Bounced,
        diagnostic: diagnostic(),
    };
    let event = ProviderEvent {
        kind: EventKind::Bounced,
        at: received_at,
        dedup_key: "mailgun/1".into(),
        recipient: Some(ADDRESS.into()),
        tracking_id: Some(id),
        message_id: None,
        automated: true,
        test_mode: false,
        diagnostic: diagnostic(),
    };
    let token = Some(("token".to_owned(), received_at, [255; 16]));
    let (operator, reason) = (ADDRESS.to_owned(), format!("{ADDRESS} asked"));
    let outcome = InboundOutcome::Released { operator: operator.clone(), reason: reason.clone() };
    let actions = [
        OperatorActionData::SinkReplay { sink: "hook".into(), since: received_at },
        OperatorActionData::StoreBackup { directory: format!("/{ADDRESS}").into() },
        OperatorActionData::SendTest { id },
    ];
    let ordered =
        |data| OperatorAction { at: received_at, data, operator: operator.clone(), reason: reason.clone() };
    let removal = SuppressionChange {
        address: "bob@example.org".parse().unwrap(),
        list: None,
        at: received_at,
        operator: operator.clone(),
        kind: SuppressionChangeKind::Remove { reason: None, comment: reason.clone() },
    };
    let replay = EventReplay {
        id,
        at: received_at,
        operator: operator.clone(),
        reason: reason.clone(),
        upstream: "up".into(),
        source: EventSource::Poll,
        previous: None,
        event: event.clone(),
    };
    let orders = actions.map(|action| Record::OperatorAction(Box::new(ordered(action))));
    let others = vec![
        Record::from(AcceptedMessage { message, recipients }),
        Record::AttemptOutcome(AttemptOutcome {
            id,
            at: received_at,
            upstream: "up".into(),
            results: vec![settled],
            next_attempt: Some(received_at),
        }),
        Record::ReceivedEvent(Box::new(ReceivedEvent {
            upstream: "up".into(),
            received_at,
            source: EventSource::Poll,
            token,
            event,
        })),
        Record::EventReplay(Box::new(replay)),
        Record::Inbound(Box::new(InboundRecord::Transitioned(InboundTransition {
            id,
            at: received_at,
            outcome,
        }))),
        Record::SuppressionChange(Box::new(removal)),
    ];
    orders.into_iter().chain(others).collect()
}

#[test]
fn replaces_every_occurrence_of_the_address_and_nothing_else() {
    let (ada, name) = (AddressMatcher::new(&ADDRESS.parse().unwrap()).unwrap(), "erased@invalid");
    let back = AddressMatcher::new(&name.parse().unwrap()).unwrap();
    for record in sample_records() {
        let head = record.map_strings(&mut |text| ada.replace(text, name)).unwrap().unwrap();
        assert!(memchr::memmem::find(&head, ADDRESS.as_bytes()).is_none(), "{record:?}");
        let changed = Record::decode(record.kind(), record.version(), &head).unwrap();
        assert_eq!(changed.map_strings(&mut |text| ada.replace(text, name)), Ok(None));
        let again = changed.map_strings(&mut |text| back.replace(text, ADDRESS)).unwrap().unwrap();
        assert_eq!(again, record.encode(), "{record:?}");
        // A record that would not decode again is not written.
        let nameless = record.map_strings(&mut |text| ada.replace(text, ""));
        assert_eq!(nameless.is_err(), matches!(record, Record::AcceptedMessage(_)));
    }
}
