//! Numbers and runs of bytes as packed messages and stored records write them: unsigned LEB128, at most 64 bits.

/// What a reader says of bytes that end too early.
pub const CUT_OFF: &str = "cut off";

/// Appends a number.
pub fn write(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a run of bytes behind its length.
pub fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// How many bytes a number takes.
pub fn len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Takes so many bytes from the front.
///
/// # Errors
/// [`CUT_OFF`] when there are fewer.
pub fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], &'static str> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(CUT_OFF)?;
    *bytes = rest;
    Ok(taken)
}

/// Takes a number from the front.
///
/// # Errors
/// [`CUT_OFF`], or that it has more than 64 bits.
pub fn read(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = u64::from(take(bytes, 1)?[0]);
        if shift == 63 && byte > 1 {
            break;
        }
        value |= (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number of more than 64 bits")
}

/// Takes a run of bytes behind its length.
///
/// # Errors
/// Those of [`read`].
pub fn read_bytes<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = usize::try_from(read(bytes)?).map_err(|_| CUT_OFF)?;
    take(bytes, length)
}

/// A signed number as an unsigned one that is small where it is near 0.
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The number that [`zigzag`] was given.
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}
