//! The message between `354` and the final dot (RFC 5321 section 4.5.2).
//!
//! The data ends at CRLF.CRLF and nothing else. A bare CR or LF becomes CRLF, and what follows it is never taken
//! for the end: a line that held only a dot behind a bare line end stays a line with a dot (and is stuffed again on
//! the way out), so no sequence that one side reads as an end and the other does not can pass through.

use memchr::{memchr2, memmem};

/// Takes the dots out of a message as it arrives, in pieces of any size.
#[derive(Debug)]
pub struct Decoder {
    /// Whether lines that begin with a dot are special.
    dots: bool,
    at: At,
    limit: u64,
    taken: u64,
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// All of it belongs to the message; more is to come.
    All,
    /// The message ended; this many bytes of the piece belong to it and its end.
    End(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    LineStart { after_crlf: bool },
    Dot { after_crlf: bool },
    DotCr { after_crlf: bool },
    Text,
    Cr,
}

impl Decoder {
    /// A decoder of DATA that keeps at most `limit` bytes; what is over is read and dropped.
    pub fn new(limit: u64) -> Self {
        Self { dots: true, at: At::LineStart { after_crlf: true }, limit, taken: 0 }
    }

    /// The same for BDAT (RFC 3030): only its caller knows the end, and says so with [`Decoder::finish`].
    pub fn of_chunks(limit: u64) -> Self {
        Self { dots: false, ..Self::new(limit) }
    }

    /// The chunks are over; a last line without an end gets one.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !matches!(self.at, At::LineStart { .. }) {
            self.keep(b"\r\n", out);
            self.at = At::LineStart { after_crlf: true };
        }
    }

    /// Whether the message is larger than the limit.
    pub fn overflowed(&self) -> bool {
        self.taken > self.limit
    }

    /// Decodes a piece and appends it to `out`.
    pub fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Fed {
        let mut index = 0;
        while index < piece.len() {
            let in_text = match self.at {
                At::Text => true,
                At::LineStart { .. } => match piece[index] {
                    b'.' => !self.dots,
                    byte => byte != b'\r' && byte != b'\n',
                },
                _ => false,
            };
            if in_text {
                let rest = &piece[index..];
                let run = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                if rest[run..].starts_with(b"\r\n") {
                    // The usual line, in one piece.
                    self.keep(&rest[..run + 2], out);
                    self.at = At::LineStart { after_crlf: true };
                    index += run + 2;
                    continue;
                }
                self.keep(&rest[..run], out);
                self.at = At::Text;
                index += run;
                if index == piece.len() {
                    break;
                }
            }
            let byte = piece[index];
            index += 1;
            if self.step(byte, out) {
                return Fed::End(index);
            }
        }
        Fed::All
    }

    /// One byte where it matters; true at the end of the data.
    fn step(&mut self, byte: u8, out: &mut Vec<u8>) -> bool {
        self.at = match (self.at, byte) {
            (At::LineStart { after_crlf }, b'.') if self.dots => At::Dot { after_crlf },
            (At::DotCr { after_crlf: true }, b'\n') => return true,
            (At::DotCr { after_crlf: false }, b'\n') => {
                self.keep(b".\r\n", out);
                At::LineStart { after_crlf: true }
            }
            (At::DotCr { .. }, _) => {
                self.keep(b".\r\n", out);
                // Nobody doubles a dot behind a bare CR.
                self.at = At::Text;
                return self.step(byte, out);
            }
            (At::Dot { after_crlf }, b'\r') => At::DotCr { after_crlf },
            (At::Dot { .. }, b'\n') => {
                self.keep(b".\r\n", out);
                At::LineStart { after_crlf: false }
            }
            (At::Cr, b'\n') => {
                self.keep(b"\r\n", out);
                At::LineStart { after_crlf: true }
            }
            (At::Cr, _) => {
                self.keep(b"\r\n", out);
                self.at = At::Text;
                return self.step(byte, out);
            }
            (_, b'\r') => At::Cr,
            (_, b'\n') => {
                self.keep(b"\r\n", out);
                At::LineStart { after_crlf: false }
            }
            (_, byte) => {
                self.keep(&[byte], out);
                At::Text
            }
        };
        false
    }

    fn keep(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.taken += bytes.len() as u64;
        if self.taken <= self.limit {
            out.extend_from_slice(bytes);
        }
    }
}

/// Finds the dots that must be doubled in a message as it leaves, in pieces of any size. Its line ends are CRLF.
#[derive(Debug, Default)]
pub struct Encoder {
    behind: Behind,
}

/// What a piece begins behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Behind {
    #[default]
    LineEnd,
    Cr,
    Text,
}

impl Encoder {
    /// The places in a piece in front of which another dot belongs.
    pub fn dots<'a>(&mut self, piece: &'a [u8]) -> impl Iterator<Item = usize> + use<'a> {
        let first = match self.behind {
            Behind::LineEnd if piece.starts_with(b".") => Some(0),
            Behind::Cr if piece.starts_with(b"\n.") => Some(1),
            _ => None,
        };
        self.behind = match piece {
            [] => self.behind,
            b"\n" if self.behind == Behind::Cr => Behind::LineEnd,
            [.., b'\r', b'\n'] => Behind::LineEnd,
            [.., b'\r'] => Behind::Cr,
            _ => Behind::Text,
        };
        first.into_iter().chain(memmem::find_iter(piece, b"\r\n.").map(|at| at + 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out, and what is left behind the end, with the input cut into pieces of `size`.
    fn decode(input: &[u8], size: usize) -> Option<(Vec<u8>, usize)> {
        let (mut decoder, mut out) = (Decoder::new(1 << 20), Vec::new());
        for (number, piece) in input.chunks(size).enumerate() {
            if let Fed::End(used) = decoder.feed(piece, &mut out) {
                return Some((out, input.len() - number * size - used));
            }
        }
        None
    }

    fn check(input: &str, expected: Option<(&str, usize)>) {
        for size in [1, 2, 3, 5, 7, 1000] {
            let got = decode(input.as_bytes(), size);
            let got = got.as_ref().map(|(text, rest)| (std::str::from_utf8(text).unwrap(), *rest));
            assert_eq!(got, expected, "{input:?} in pieces of {size}");
        }
    }

    #[test]
    fn dots_are_taken_out_and_the_end_is_found() {
        check("a\r\n.\r\n", Some(("a\r\n", 0)));
        check("..a\r\n...\r\n.b\r\n.\r\nQUIT\r\n", Some((".a\r\n..\r\nb\r\n", 6)));
        check(".\r\n", Some(("", 0)));
        check("\r\n.\r\n", Some(("\r\n", 0)));
        check("a\r\n.", None);
        check("a\r\n.\r", None);
    }

    #[test]
    fn chunks_have_no_dots_and_end_where_they_end() {
        for (input, expected) in [
            ("..a\r\n.\r\nb\r\n", "..a\r\n.\r\nb\r\n"),
            ("a\n.\rb", "a\r\n.\r\nb\r\n"),
            ("a\r", "a\r\n"),
            (".", ".\r\n"),
            ("", ""),
        ] {
            for size in [1, 2, 3, 1000] {
                let (mut decoder, mut out) = (Decoder::of_chunks(1000), Vec::new());
                for piece in input.as_bytes().chunks(size) {
                    assert_eq!(decoder.feed(piece, &mut out), Fed::All);
                }
                decoder.finish(&mut out);
                assert_eq!(String::from_utf8(out).unwrap(), expected, "{input:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn only_crlf_dot_crlf_ends_the_data() {
        for (input, expected) in [
            ("a\n.\nb\r\n.\r\n", "a\r\n.\r\nb\r\n"),
            ("a\n.\r\nb\r\n.\r\n", "a\r\n.\r\nb\r\n"),
            ("a\r.\rb\r\n.\r\n", "a\r\n.\r\nb\r\n"),
            ("a\r\n.\nb\r\n.\r\n", "a\r\n.\r\nb\r\n"),
            ("a\r\n.\rb\r\n.\r\n", "a\r\n.\r\nb\r\n"),
            ("a\r\n.\r\r\nb\r\n.\r\n", "a\r\n.\r\n\r\nb\r\n"),
            ("a\r.\r\nb\r\n.\r\n", "a\r\n.\r\nb\r\n"),
            ("a\n..\n...b\r\n.\r\n", "a\r\n.\r\n..b\r\n"),
            ("a\r\rb\r\n.\r\n", "a\r\n\r\nb\r\n"),
            ("a\r.b\r..c\r\n.\r\n", "a\r\n.b\r\n..c\r\n"),
            ("a\r\n..\r.b\r\n.\r\n", "a\r\n.\r\n.b\r\n"),
            ("a\n\r\n.\r\n", "a\r\n\r\n"),
        ] {
            check(input, Some((expected, 0)));
        }
    }

    /// The message as it goes over the wire, handed over in pieces.
    fn encode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let (mut encoder, mut wire) = (Encoder::default(), Vec::new());
        for piece in pieces {
            let mut from = 0;
            for at in encoder.dots(piece) {
                wire.extend_from_slice(&piece[from..at]);
                wire.push(b'.');
                from = at;
            }
            wire.extend_from_slice(&piece[from..]);
        }
        wire.extend_from_slice(b".\r\n");
        wire
    }

    #[test]
    fn dots_are_doubled_wherever_a_message_is_cut() {
        for (message, expected) in [
            (".a\r\n..b\r\n\r\n.\r\n", "..a\r\n...b\r\n\r\n..\r\n.\r\n"),
            ("a.\r\n.\r\n.\r\n.b", "a.\r\n..\r\n..\r\n..b.\r\n"),
            ("a\n.\r.\r\r\n.\r\n", "a\n.\r.\r\r\n..\r\n.\r\n"),
            ("", ".\r\n"),
        ] {
            let message = message.as_bytes();
            for first in 0..=message.len() {
                for second in first..=message.len() {
                    let pieces = [&message[..first], &message[first..second], &message[second..]];
                    let wire = String::from_utf8(encode(pieces.into_iter())).unwrap();
                    assert_eq!(wire, expected, "cut at {first} and {second}");
                }
            }
            assert_eq!(encode(message.chunks(1)), expected.as_bytes());
        }
    }

    #[test]
    fn what_came_in_goes_out() {
        for message in ["", "a\r\n", ".a\r\n..b\r\n\r\n.\r\n", "\r\n.\r\n", ".\r\n"] {
            for size in 1..8 {
                let wire = encode(message.as_bytes().chunks(size));
                assert_eq!(decode(&wire, size), Some((message.as_bytes().to_vec(), 0)), "{message:?}");
            }
        }
    }

    #[test]
    fn too_much_is_read_to_its_end_and_dropped() {
        let (mut decoder, mut out) = (Decoder::new(4), Vec::new());
        assert_eq!(decoder.feed(b"ab\r\ncd\r\n.\r\nNOOP\r\n", &mut out), Fed::End(11));
        assert!(decoder.overflowed() && out.len() <= 4);
        let mut decoder = Decoder::new(4);
        assert_eq!(decoder.feed(b"ab\r\n.\r\n", &mut Vec::new()), Fed::End(7));
        assert!(!decoder.overflowed());
    }
}
