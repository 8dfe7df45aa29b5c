use proptest::prelude::*;
use protocol::{ClientId, NewParts};
use rkyv::rancor::Error as RkyvError;

use super::*;

/// What a record of version 1 can have.
fn old() -> Record {
    Record {
        kind: Kind::Message,
        seq: 0x0102_0304,
        id: 0x1112_1314_1516_1718,
        time_ms: 1_735_689_600_123,
        sender: "mina".into(),
        content: Content::Json,
        body: br#"{"a":1}"#[..].into(),
        key: Some(Key { hash: 0xfeed, body: None }),
        parts: OwnedParts::default(),
    }
}

fn full() -> Record {
    let parts = NewParts {
        client: Some(ClientId(0x0807_0605_0403_0201)),
        info: Some(b"{}"),
        room_info: Some(b"[]"),
        tags: &[("lang", "ko")],
        target: Some(3),
    };
    Record {
        kind: Kind::Other(7),
        time_ms: time_ms(old().id) + 2,
        key: Some(Key { hash: 0xfeed, body: Some(0xbeef) }),
        parts: parts.pack(),
        ..old()
    }
}

/// The line of a chat that has nothing of what is optional.
fn plain() -> Record {
    Record { time_ms: time_ms(old().id), key: None, seq: 300, content: Content::Text, body: b"hi"[..].into(), ..old() }
}

/// A record as relays wrote it before version 2.
fn encode_v1(record: &Record, content: u8) -> Vec<u8> {
    let Record { seq, id, time_ms, sender, body, key, .. } = record;
    let key = key.map(|key| key.hash);
    let fields = v1::Fields { seq: *seq, id: *id, time_ms: *time_ms, sender, content, body, key };
    rkyv::api::high::to_bytes_in::<_, RkyvError>(&fields, vec![1, record.kind.to_u8()]).unwrap()
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn version_1_is_read_from_its_bytes() {
    let golden = concat!(
        "0100", // version, kind
        "6d696e61",
        "7b2261223a317d", // sender, body
        "0403020100000000",
        "1817161514131211",
        "7b7c291f94010000", // seq, id, time
        "ddffffff04000000",
        "01",
        "d8ffffff07000000", // sender and body as (offset, length), content between
        "01",
        "edfe0000000000000000000000000000", // key
    );
    assert_eq!(Record::decode(&unhex(golden)).unwrap(), old());
    assert_eq!(hex(&encode_v1(&old(), 1)), golden);
}

#[test]
fn version_2_keeps_its_bytes() {
    let golden_plain = concat!(
        "0200",             // version, kind
        "00",               // text, nothing that is optional
        "ac02",             // seq
        "1817161514131211", // id
        "046d696e61",       // sender
        "026869",           // body
    );
    let golden_full = concat!(
        "0207",                             // version, kind
        "3d",                               // JSON, all that is optional
        "84868808",                         // seq
        "1817161514131211",                 // id
        "04",                               // 2 ms later
        "046d696e61",                       // sender
        "edfe0000000000000000000000000000", // key
        "efbe000000000000",                 // body as sent
        "1f",                               // parts
        "01080102030405060708",
        "02027b7d",
        "03025b5d",
        "0408046c616e67026b6f",
        "050103",
        "077b2261223a317d", // body
    );
    for (record, golden) in [(plain(), golden_plain), (full(), golden_full)] {
        assert_eq!(hex(&encoded(&record)), golden);
        assert_eq!(Record::decode(&unhex(golden)).unwrap(), record);
    }
}

#[test]
fn a_plain_line_takes_less_than_in_version_1() {
    for body in [0, 20, 500] {
        let record = Record { body: vec![b'x'; body].into(), ..plain() };
        let (old, new) = (encode_v1(&record, 0).len(), encoded(&record).len());
        let around = new - body - record.sender.len();
        assert!(around <= 17 && new + 40 <= old, "{new} bytes instead of {old}");
    }
}

#[test]
fn an_unknown_version_says_what_to_do() {
    let mut bytes = encoded(&full());
    bytes[0] = 3;
    let error = Record::decode(&bytes).unwrap_err().to_string();
    assert!(error.contains("version is 3") && error.contains("newer"), "{error}");
}

#[test]
fn an_unknown_content_type_is_refused() {
    let newer = encode_v1(&old(), 77);
    assert!(Record::decode(&newer).unwrap_err().to_string().contains("content type 77"));
    let mut newer = encoded(&plain());
    newer[2] |= 3;
    assert!(Record::decode(&newer).unwrap_err().to_string().contains("content type"));
}

#[test]
fn what_is_cut_off_or_goes_on_is_refused() {
    for bytes in [encoded(&plain()), encoded(&full())] {
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes[..length]).is_err(), "cut to {length}");
        }
        assert!(Record::decode(&[&bytes[..], b"x"].concat()).is_err());
    }
    let bytes = encode_v1(&old(), 1);
    for length in 0..bytes.len() {
        assert!(Record::decode(&bytes[..length]).ok() != Some(old()), "cut to {length}");
    }
}

#[test]
fn a_repeat_has_the_same_body_as_far_as_is_known() {
    let key = |body| Key { hash: 1, body };
    assert!(key(Some(1)).repeats(Some(1)) && !key(Some(1)).repeats(Some(2)));
    assert!(key(None).repeats(Some(1)) && key(Some(1)).repeats(None));
}

prop_compose! {
    fn any_record()(
        kind in any::<u8>(), seq in any::<u64>(), id in any::<u64>(), late in prop_oneof![Just(0), any::<i64>()],
        sender in ".{0,40}", content in 0u8..3, body in proptest::collection::vec(any::<u8>(), 0..300),
        key in any::<Option<(u128, Option<u64>)>>(), client in any::<Option<u64>>(), info in any::<Option<Vec<u8>>>(),
        tag in any::<Option<String>>(), target in any::<Option<u64>>(),
    ) -> Record {
        let tags: Vec<_> = tag.iter().map(|tag| (&**tag, "value")).collect();
        let parts = NewParts { client: client.map(ClientId), info: info.as_deref(), room_info: None, tags: &tags, target };
        Record {
            kind: Kind::from_u8(kind), seq, id, time_ms: time_ms(id).wrapping_add_signed(late), sender: sender.into(),
            content: Content::from_u8(content).unwrap(), body: body.into(),
            key: key.map(|(hash, body)| Key { hash, body }), parts: parts.pack(),
        }
    }
}

proptest! {
    #[test]
    fn every_record_survives_a_round_trip(
        record in any_record(), before in proptest::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut bytes = before.clone();
        record.encode(&mut bytes);
        prop_assert_eq!(bytes[before.len() + 1], record.kind.to_u8());
        prop_assert_eq!(Record::decode(&bytes[before.len()..]).unwrap(), record);
    }

    #[test]
    fn what_version_1_could_hold_is_read(record in any_record()) {
        let key = record.key.map(|key| Key { body: None, ..key });
        let record = Record { key, parts: OwnedParts::default(), ..record };
        prop_assert_eq!(Record::decode(&encode_v1(&record, record.content as u8)).unwrap(), record);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 1u8..3) {
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        let _ = Record::decode(&bytes);
    }

    #[test]
    fn a_damaged_record_never_panics(record in any_record(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encoded(&record);
        *at.get_mut(&mut bytes) = to;
        let _ = Record::decode(&bytes);
    }
}
