//! The negotiation of permessage-deflate (RFC 7692 section 7.1), both ends. Either end always promises to start each
//! message afresh: a window that is kept costs 32 KiB and more for every connection.

#[cfg(test)]
mod tests;

use std::mem::replace;

use httparse::Header;

use super::head::values;

const EXTENSIONS: &str = "Sec-WebSocket-Extensions";
const NAME: &str = "permessage-deflate";

/// A client's header line.
pub(super) const OFFER: &str =
    "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n";

/// What a server takes of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreed {
    /// The client named the size of the server's window, and hears it again.
    pub repeats_window: bool,
}

impl Agreed {
    /// A server's header line.
    pub fn answer(self) -> &'static str {
        if self.repeats_window {
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=15\r\n"
        } else {
            OFFER
        }
    }
}

/// The first of a client's offers that this server can take: not one that asks it for a window below 32 KiB, for its
/// frames are shared by all; not one with parameters that are unknown, invalid or said twice.
pub(super) fn choose(headers: &[Header<'_>]) -> Option<Agreed> {
    extensions(headers).find_map(|extension| {
        let parameters = Parameters::read(extension)?;
        match parameters.server_window {
            None => Some(Agreed { repeats_window: false }),
            Some(15) => Some(Agreed { repeats_window: true }),
            Some(_) => None,
        }
    })
}

/// Whether a server compresses, having been made the [`OFFER`] or none; or why its answer is wrong.
pub(super) fn check_answer(headers: &[Header<'_>], was_offered: bool) -> Result<bool, &'static str> {
    let mut answers = extensions(headers);
    let Some(answer) = answers.next() else {
        return Ok(false);
    };
    if !was_offered || answers.next().is_some() || !is_deflate(answer) {
        return Err("an extension that was not offered");
    }
    match Parameters::read(answer) {
        None => Err("permessage-deflate with parameters that are wrong"),
        Some(answer) if answer.client_window => {
            Err("permessage-deflate with client_max_window_bits, which was not offered")
        }
        Some(answer) if !answer.server_no_context_takeover => {
            Err("permessage-deflate without server_no_context_takeover")
        }
        Some(_) => Ok(true),
    }
}

/// The parameters of one permessage-deflate.
#[derive(Default)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    /// log₂ of bytes, 8 to 15.
    server_window: Option<u8>,
    /// The client's window is spoken of: in an offer, it could use a smaller one; none is asked of it here.
    client_window: bool,
}

impl Parameters {
    /// `None` if it is another extension, or a parameter is unknown, invalid or said twice.
    fn read(extension: &str) -> Option<Self> {
        let mut parameters = Self::default();
        let mut parts = split(extension, ';');
        parts.next().filter(|name| name.eq_ignore_ascii_case(NAME))?;
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim_ascii(), Some(unquoted(value.trim_ascii()))),
                None => (part, None),
            };
            let was_said = match (name, value) {
                ("server_no_context_takeover", None) => replace(&mut parameters.server_no_context_takeover, true),
                ("client_no_context_takeover", None) => replace(&mut parameters.client_no_context_takeover, true),
                ("client_max_window_bits", None) => replace(&mut parameters.client_window, true),
                ("client_max_window_bits", Some(bits)) => {
                    window(bits)?;
                    replace(&mut parameters.client_window, true)
                }
                ("server_max_window_bits", Some(bits)) => parameters.server_window.replace(window(bits)?).is_some(),
                _ => return None,
            };
            if was_said {
                return None;
            }
        }
        Some(parameters)
    }
}

/// A decimal number from 8 to 15, without leading zeros.
fn window(bits: &str) -> Option<u8> {
    bits.parse().ok().filter(|number| (8..=15).contains(number) && !bits.starts_with(['0', '+']))
}

fn is_deflate(extension: &str) -> bool {
    split(extension, ';').next().is_some_and(|name| name.eq_ignore_ascii_case(NAME))
}

/// The extensions of all headers of that name.
fn extensions<'h>(headers: &'h [Header<'h>]) -> impl Iterator<Item = &'h str> {
    values(headers, EXTENSIONS).flat_map(|value| split(value, ',')).filter(|extension| !extension.is_empty())
}

/// The parts of `list` between separators that stand outside quotes, trimmed.
fn split(list: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    let parts = list.split(move |c| {
        is_quoted ^= c == '"';
        c == separator && !is_quoted
    });
    parts.map(str::trim_ascii)
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}
