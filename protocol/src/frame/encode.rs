//! The encoders: final frames, appended to a buffer.

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;

use super::mask::apply_mask;
use super::{CONTROL_BYTES_MAX, Opcode};

/// The header of an unmasked frame of 126 to 65,535 bytes, which most frames of many messages have.
const USUAL_HEADER_BYTES: usize = 4;

/// Appends one unmasked, final frame (what a server sends). A control frame's payload has at most 125 bytes.
pub fn write(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    write_header(opcode, None, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends an unmasked, final frame whose payload `fill` writes in place; the header is put before it afterwards.
/// `fill` may only append. The payload is moved unless it has 126 to 65,535 bytes.
pub fn write_with(opcode: Opcode, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let filled_at = start + USUAL_HEADER_BYTES;
    out.resize(filled_at, 0);
    fill(out);
    let filled = filled_at..out.len();
    let header = header(opcode, None, filled.len());
    let payload_at = start + header.len(filled.len() as u64);
    let end = payload_at + filled.len();
    if payload_at != filled_at {
        out.resize(end.max(filled.end), 0);
        out.copy_within(filled.clone(), payload_at);
        out.truncate(end);
    }
    header.format(filled.len() as u64, &mut &mut out[start..payload_at]).expect("the gap has the header's size");
}

/// Appends one masked, final frame (what a client sends). A control frame's payload has at most 125 bytes.
pub fn write_masked(opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    write_header(opcode, Some(mask), payload.len(), out);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}

/// Appends a server's close frame; `reason` is cut at a character boundary to fit the 123 bytes of a control frame.
pub fn write_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    write_header(Opcode::Close, None, 2 + reason.len(), out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

fn write_header(opcode: Opcode, mask: Option<[u8; 4]>, length: usize, out: &mut Vec<u8>) {
    header(opcode, mask, length).format(length as u64, out).expect("a Vec takes every byte");
}

fn header(opcode: Opcode, mask: Option<[u8; 4]>, length: usize) -> FrameHeader {
    assert!(!opcode.is_control() || length <= CONTROL_BYTES_MAX, "a control frame of {length} bytes");
    FrameHeader { opcode: OpCode::from(opcode as u8), mask, ..FrameHeader::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_shortest_length_form() {
        for (length, header) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let mut written = b"before".to_vec();
            write(Opcode::Binary, &payload, &mut written);
            assert_eq!(written, [b"before", header, &payload].concat(), "{length} bytes");

            let mut filled = b"before".to_vec();
            write_with(Opcode::Binary, &mut filled, |out| {
                out.extend_from_slice(&payload);
            });
            assert_eq!(filled, written, "{length} bytes filled in place");
        }
    }

    #[test]
    fn the_examples_of_rfc_6455_section_5_7_are_written() {
        let mut out = Vec::new();
        write(Opcode::Text, b"Hello", &mut out);
        write_masked(Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d], &mut out);
        write(Opcode::Ping, b"Hello", &mut out);
        let expected = [
            &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f][..],
            &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58],
            &[0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f],
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        write_close(1001, &"한".repeat(50), &mut out);
        assert_eq!(out[..4], [0x88, 125, 0x03, 0xe9]);
        assert_eq!(out[4..], *"한".repeat(41).as_bytes());

        out.clear();
        write_close(4000, &format!("a{}", "한".repeat(50)), &mut out);
        assert_eq!(out.len(), 2 + 2 + 1 + 40 * 3);
    }

    #[test]
    #[should_panic(expected = "a control frame of 126 bytes")]
    fn a_long_ping_is_a_programmer_error() {
        write(Opcode::Ping, &[0; 126], &mut Vec::new());
    }
}
