//! Commands and events for the dialects' tests: one table of every kind, and strategies for arbitrary ones.

use std::borrow::Cow;

use proptest::{collection::vec, option, prelude::*};

use crate::{
    ClientId, Command, Content, ErrorCode, Event, Kind, Message, NewParts, Page, Parts, Start,
    snowflake::{EPOCH_MS, Snowflake},
};

/// Three messages as a relay would number them, of every content type, two of them from one user.
pub(crate) const MESSAGES: &[Message<'static>] = &[
    Message {
        seq: 41,
        id: (90_000_000_000 << 22) | (3 << 9),
        time_ms: EPOCH_MS + 90_000_000_000,
        user: "haneul_77",
        content: Content::Text,
        body: "안녕 \"all\"\n😀".as_bytes(),
        kind: Kind::Message,
        parts: Parts::NONE,
    },
    Message {
        seq: 42,
        id: (90_000_000_007 << 22) | (3 << 9),
        time_ms: EPOCH_MS + 90_000_000_007,
        user: "bo",
        content: Content::Json,
        body: br#"{"gif":"wave"}"#,
        kind: Kind::Message,
        parts: Parts::NONE,
    },
    Message {
        seq: 43,
        id: (90_000_000_007 << 22) | (3 << 9) | 1,
        time_ms: EPOCH_MS + 90_000_000_009,
        user: "haneul_77",
        content: Content::Binary,
        body: &[0, 255, 10],
        kind: Kind::Message,
        parts: Parts::NONE,
    },
];

/// Every command, and every way to fill it.
pub(crate) fn commands() -> Vec<Command<'static>> {
    let room = || Cow::Borrowed("lobby");
    let join = |start| Command::Join { room: room(), start };
    let history = |page| Command::History { room: room(), page, limit: 50, epoch: None, newest_first: false };
    let publish =
        |content, body: &'static [u8], key| Command::Publish { room: room(), content, body: body.into(), key };
    vec![
        Command::Connect { user: None, device: None },
        Command::Connect { user: Some("ann".into()), device: Some("phone".into()) },
        join(Start::Recent(0)),
        join(Start::Recent(50)),
        join(Start::Since { seq: 7, epoch: None }),
        join(Start::Since { seq: 0, epoch: Some(0xfeed) }),
        Command::Leave { room: room() },
        publish(Content::Text, "hi \"you\"\n안녕".as_bytes(), None),
        publish(Content::Json, br#"{"a": [1, 2.50]}"#, Some("k-1".into())),
        history(Page::Newest),
        history(Page::Before(9)),
        history(Page::After(9)),
        history(Page::Around(9)),
        Command::Info { room: room() },
        Command::Ping,
        Command::Pong,
        Command::Unsupported,
    ]
}

/// Every event.
pub(crate) fn events() -> Vec<Event<'static>> {
    let room = "lobby";
    let mut events = vec![
        Event::Connected { user: "ann", session: u64::MAX, client: ClientId(77), ping_s: 25 },
        Event::Joined { room, epoch: 0xfeed, from: 7, head: 43, recovering: true, recovered: true },
        Event::Joined { room, epoch: u64::MAX, from: 0, head: 0, recovering: false, recovered: false },
        Event::Left { room },
        Event::Acked { room, seq: 42, id: MESSAGES[1].id },
        Event::KeyTaken { seq: 42, id: MESSAGES[1].id },
        Event::History { room, epoch: 0xfeed, head: 43, messages: MESSAGES },
        Event::History { room, epoch: 0xfeed, head: 43, messages: &[] },
        Event::Batch { room, messages: MESSAGES },
        Event::Batch { room, messages: &MESSAGES[1..2] },
        Event::Gap { room, from: 10, to: 20 },
        Event::GoingAway { reason: "restart", reconnect_after_ms: 1_500 },
        Event::Info { room, epoch: 0xfeed, head: 43, members: 3, people: 2, per_minute: 70 },
        Event::Pong,
        Event::Ping,
    ];
    let plain = ErrorCode::ALL.into_iter().filter(|code| *code != ErrorCode::KeyTaken);
    events.extend(plain.map(|code| Event::Error { code, message: "because", retry_after_ms: 250 }));
    events
}

/// Any command; JSON bodies are JSON.
pub(crate) fn any_command() -> impl Strategy<Value = Command<'static>> {
    let name = || any::<String>().prop_map(Cow::Owned);
    let start = prop_oneof![
        any::<u32>().prop_map(Start::Recent),
        (any::<u64>(), option::of(any::<u64>())).prop_map(|(seq, epoch)| Start::Since { seq, epoch }),
    ];
    let page = prop_oneof![
        Just(Page::Newest),
        any::<u64>().prop_map(Page::Before),
        any::<u64>().prop_map(Page::After),
        any::<u64>().prop_map(Page::Around),
    ];
    prop_oneof![
        (option::of(name()), option::of(name())).prop_map(|(user, device)| Command::Connect { user, device }),
        (name(), start).prop_map(|(room, start)| Command::Join { room, start }),
        name().prop_map(|room| Command::Leave { room }),
        (name(), any_body(), option::of(name())).prop_map(|(room, (content, body), key)| Command::Publish {
            room,
            content,
            body: body.into(),
            key,
        }),
        (name(), page, any::<u32>()).prop_map(|(room, page, limit)| Command::History {
            room,
            page,
            limit,
            epoch: None,
            newest_first: false,
        }),
        name().prop_map(|room| Command::Info { room }),
        Just(Command::Ping),
    ]
}

/// A content type and a body that is one.
pub(crate) fn any_body() -> impl Strategy<Value = (Content, Vec<u8>)> {
    let json = "(\\{\"a\": ?[1-9][0-9]{0,8}\\}|\\[true,\n \"x\\\\n\"\\]|null|-1e9)";
    prop_oneof![
        any::<String>().prop_map(|text| (Content::Text, text.into_bytes())),
        json.prop_map(|json| (Content::Json, json.into_bytes())),
        vec(any::<u8>(), 0..300).prop_map(|bytes| (Content::Binary, bytes)),
    ]
}

/// Up to 30 messages with dense seqs. Ids are mostly those of a generator, users repeat.
pub(crate) fn any_messages() -> impl Strategy<Value = Vec<Message<'static>>> {
    let user = prop_oneof![Just("mi".to_owned()), "[a-z가-힣]{1,12}", any::<String>()];
    let odd = prop_oneof![4 => Just(None), 1 => any::<u64>().prop_map(Some)];
    let kind = prop_oneof![3 => Just(Kind::Message), 1 => any::<u8>().prop_map(Kind::from_u8)];
    let more = (kind, option::of((any::<u64>(), any::<String>(), "[a-z]{1,9}")));
    let line = (user, any_body(), 0_u64..300, odd, prop_oneof![Just(0_i64), any::<i64>()], more);
    (1..u64::MAX - 30, vec(line, 0..30)).prop_map(|(first, lines)| {
        let mut ids = Snowflake::new(1, 2, 0);
        let mut now = EPOCH_MS + 50_000_000_000;
        let mut messages = Vec::new();
        for (seq, (user, (content, body), wait, odd, late, (kind, more))) in (first..).zip(lines) {
            now += wait / 2;
            let id = odd.unwrap_or_else(|| ids.next(now, 0));
            let time_ms = now.wrapping_add_signed(late);
            let parts = more.map_or(Parts::NONE, |(client, tag, json)| {
                let (client, info) = (Some(ClientId(client)), Some(json.as_bytes()));
                let (tags, target) = (&[(&*tag, &*json)][..], Some(seq - 1));
                Parts::read(
                    NewParts { client, info, tags, target, ..NewParts::default() }.pack().get().bytes().to_vec().leak(),
                )
                .expect("they were packed")
            });
            let (user, body) = (user.leak(), body.leak());
            messages.push(Message { seq, id, time_ms, user, content, body, kind, parts });
        }
        messages
    })
}
