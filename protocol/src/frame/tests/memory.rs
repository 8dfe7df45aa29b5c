use super::*;

#[test]
fn an_idle_decoder_is_small_and_owns_nothing() {
    assert!(size_of::<Decoder>() <= 48, "{} bytes", size_of::<Decoder>());
    assert!(Decoder::new(Role::Server, 1 << 20).is_idle());
}

#[test]
fn a_message_whole_in_the_input_is_returned_in_place() {
    let mut decoder = Decoder::new(Role::Server, 1000);
    let mut bytes = [frame(Role::Server, 0x81, b"first"), frame(Role::Server, 0x82, &[7; 300])].concat();
    let range = bytes.as_ptr_range();
    let (used, incoming) = decoder.next(&mut bytes).unwrap();
    let Some(Incoming::Text("first")) = incoming else { panic!("{incoming:?}") };
    let (rest, incoming) = decoder.next(&mut bytes[used..]).unwrap();
    let Some(Incoming::Binary(binary)) = incoming else { panic!("{incoming:?}") };
    assert!(range.contains(&binary.as_ptr()) && binary == [7; 300]);
    assert_eq!(used + rest, bytes.len());
    assert!(decoder.is_idle());
}

#[test]
fn a_payload_whole_in_the_input_is_returned_in_place_even_after_a_divided_header() {
    let mut bytes = frame(Role::Server, 0x82, &[7; 300]);
    let mut decoder = Decoder::new(Role::Server, 1000);
    assert_eq!(feed(&mut decoder, &bytes[..7]), Ok(vec![]));
    let range = bytes.as_ptr_range();
    let (_, incoming) = decoder.next(&mut bytes[7..]).unwrap();
    let Some(Incoming::Binary(binary)) = incoming else { panic!("{incoming:?}") };
    assert!(range.contains(&binary.as_ptr()) && binary == [7; 300]);
}

#[test]
fn a_buffered_message_is_freed_by_the_next_call() {
    let mut decoder = Decoder::new(Role::Server, 1000);
    let mut bytes = frame(Role::Server, 0x82, &[7; 300]);
    let (head, tail) = bytes.split_at_mut(100);
    assert_eq!(decoder.next(head), Ok((100, None)));
    assert_eq!(decoder.next(tail), Ok((208, Some(Incoming::Binary(&[7; 300])))));
    assert!(!decoder.is_idle());
    assert_eq!(decoder.next(&mut []), Ok((0, None)));
    assert!(decoder.is_idle());
}

#[test]
fn a_ping_between_fragments_is_freed_and_the_fragments_are_kept() {
    let mut decoder = Decoder::new(Role::Server, 1000);
    let ping = frame(Role::Server, 0x89, &[9; 125]);
    feed(&mut decoder, &frame(Role::Server, 0x01, b"to")).unwrap();
    let before = decoder.buffer_bytes();
    feed(&mut decoder, &ping[..50]).unwrap();
    assert_eq!(feed(&mut decoder, &ping[50..]).unwrap(), [Owned::Ping(vec![9; 125])]);
    assert_eq!(decoder.buffer_bytes(), before);
    let last = frame(Role::Server, 0x80, b"gether");
    assert_eq!(feed(&mut decoder, &last).unwrap(), [Owned::Text("together".into())]);
    assert!(decoder.is_idle());
}

#[test]
fn memory_follows_what_has_arrived_and_not_what_was_announced() {
    let mut decoder = Decoder::new(Role::Client, 1 << 30);
    let announced = [&[0x82, 127][..], &(1_u64 << 30).to_be_bytes(), &[0; 10]].concat();
    feed(&mut decoder, &announced).unwrap();
    assert_eq!(decoder.buffer_bytes(), 10);
    feed(&mut decoder, &[0; 11]).unwrap();
    assert_eq!(decoder.buffer_bytes(), 21);
    feed(&mut decoder, &[0; 1]).unwrap();
    assert_eq!(decoder.buffer_bytes(), 42);
}

#[test]
fn a_buffer_never_grows_past_its_frame_or_the_limit() {
    // Opcode and final bit, announced length, most that the message can be.
    for (first, announced, bytes_max) in [(0x82, 90, 90), (0x02, 90, 100)] {
        let mut decoder = Decoder::new(Role::Client, 100);
        feed(&mut decoder, &[&[first, announced], &[0; 60][..]].concat()).unwrap();
        assert_eq!(decoder.buffer_bytes(), 60);
        feed(&mut decoder, &[0]).unwrap();
        assert_eq!(decoder.buffer_bytes(), bytes_max);
    }
}
