//! Messages as Centrifuge publications, written straight into the frame: the hot path of this dialect.

use std::io::Write;

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer};

use crate::{Content, Kind, Message};

/// Whether this dialect can show it: only what was said, until it has words for the rest.
pub(super) fn is_shown(message: &Message<'_>) -> bool {
    message.kind == Kind::Message
}

/// One `{"push":…}` a message that is shown, newline between them.
pub(super) fn write_pushes(room: &str, messages: &[Message<'_>], out: &mut Vec<u8>) {
    let head = out.len();
    put(out, r#"{"push":{"channel":"#);
    json(out, room);
    put(out, r#","pub":"#);
    let head = head..out.len();
    for (index, message) in messages.iter().filter(|message| is_shown(message)).enumerate() {
        if index > 0 {
            put(out, "}}\n");
            out.extend_from_within(head.clone());
        }
        write(message, out);
    }
    put(out, "}}");
}

/// The publications of a history, comma between them.
pub(super) fn write_list(messages: &[Message<'_>], out: &mut Vec<u8>) {
    for (index, message) in messages.iter().filter(|message| is_shown(message)).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(message, out);
    }
}

fn write(message: &Message<'_>, out: &mut Vec<u8>) {
    put(out, r#"{"data":"#);
    write_data(message.content, message.body, out);
    put(out, r#","info":{"user":"#);
    json(out, message.user);
    put(out, r#","client":""#);
    if let Some(client) = message.parts.client() {
        write!(out, "{client}").expect("a Vec takes every byte");
    }
    put(out, "\"");
    for (name, info) in [("conn_info", message.parts.info()), ("chan_info", message.parts.room_info())] {
        if let Some(info) = info {
            put(out, ",\"");
            put(out, name);
            put(out, "\":");
            let content = if crate::json::check(info).is_ok() { Content::Json } else { Content::Binary };
            write_data(content, info, out);
        }
    }
    put(out, r#"},"offset":"#);
    json(out, &message.seq);
    put(out, r#","time":"#);
    json(out, &message.time_ms);
    put(out, r#","id":""#);
    json(out, &message.id);
    put(out, "\"");
    let mut tags = message.parts.tags().peekable();
    if tags.peek().is_some() {
        put(out, r#","tags":"#);
        serde_json::Serializer::new(&mut *out).collect_map(tags).expect("strings are JSON and a Vec takes every byte");
    }
    out.push(b'}');
}

fn write_data(content: Content, body: &[u8], out: &mut Vec<u8>) {
    match content {
        Content::Text => json(out, &*String::from_utf8_lossy(body)),
        // A newline ends a reply; in JSON as it is stored it can only stand between tokens.
        Content::Json => out.extend(body.iter().map(|&byte| if byte == b'\n' { b' ' } else { byte })),
        Content::Binary => {
            write!(out, r#"{{"base64":"{}"}}"#, Base64Display::new(body, &STANDARD)).expect("a Vec takes every byte");
        }
    }
}

/// Appends text that is JSON already.
pub(super) fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends a value as JSON.
pub(super) fn json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("strings and numbers are JSON and a Vec takes every byte");
}
