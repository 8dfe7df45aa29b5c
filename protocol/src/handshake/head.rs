//! What both ends look for in the other's HTTP head.

use httparse::Header;

/// More headers than this are refused, whatever their size.
pub(super) const HEADERS_MAX: usize = 64;

/// The values of all headers called `name`, trimmed.
pub(super) fn values<'h>(headers: &'h [Header<'h>], name: &str) -> impl Iterator<Item = &'h str> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| str::from_utf8(header.value).unwrap_or("").trim_ascii())
}

/// The value of the header called `name`, if there is exactly one.
pub(super) fn value<'h>(headers: &'h [Header<'h>], name: &str) -> Option<&'h str> {
    let mut values = values(headers, name);
    values.next().filter(|_| values.next().is_none())
}

/// The elements of a comma-separated list, which may be spread over several headers of the same name.
pub(super) fn list<'h>(headers: &'h [Header<'h>], name: &str) -> impl Iterator<Item = &'h str> {
    values(headers, name).flat_map(|value| value.split(',')).map(str::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether both headers say that the connection turns into a WebSocket.
pub(super) fn is_upgrade(headers: &[Header<'_>]) -> bool {
    let names = |name, token: &str| list(headers, name).any(|element| element.eq_ignore_ascii_case(token));
    names("Upgrade", "websocket") && names("Connection", "upgrade")
}
