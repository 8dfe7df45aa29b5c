use super::super::{Deflater, Inflater, write};
use super::*;

#[test]
fn a_deflated_frame_is_smaller_and_inflates_to_the_same_message() {
    let chat = "nice one! ".repeat(50);
    let (mut plain, mut deflated) = (Vec::new(), Vec::new());
    write(Opcode::Text, chat.as_bytes(), &mut plain);
    Deflater::new(6).deflate(&plain, 0, &mut deflated);
    assert!(deflated.len() < 40);
    let mut decoder = Decoder::new(Role::Client, 1000).with_deflate();
    let found = feed(&mut decoder, &deflated).unwrap();
    let [Owned::Deflated(opcode, payload)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(Inflater::new().inflate(*opcode, payload, 500), Ok(Incoming::Text(&chat)));
}
