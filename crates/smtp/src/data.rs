//! Decodes the message between `354` and the final dot (RFC 5321 section 4.5.2).
//!
//! The data ends at CRLF.CRLF and nothing else. A bare CR or LF becomes CRLF, and the bytes after it are never the end:
//! a line with only a dot after a bare line end stays a line with a dot (and is stuffed again on output). So no
//! sequence that only one of two servers reads as the end can pass through.

use memchr::{memchr2, memmem};

/// Takes the dots out of a message as it arrives, in pieces of any size.
#[derive(Debug)]
pub struct Decoder {
    /// Whether lines that begin with a dot are special.
    dot_unstuffing: bool,
    state: DecoderState,
    max_bytes: u64,
    decoded_bytes: u64,
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedResult {
    /// All of it belongs to the message; more is to come.
    NeedMore,
    /// The message ended; this many bytes of the piece belong to it and its end.
    Complete(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecoderState {
    LineStart { after_crlf: bool },
    Dot { after_crlf: bool },
    DotCr { after_crlf: bool },
    Text,
    Cr,
}

impl Decoder {
    /// Creates a decoder of DATA that keeps at most `limit` bytes; the excess is read and discarded.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            dot_unstuffing: true,
            state: DecoderState::LineStart { after_crlf: true },
            max_bytes,
            decoded_bytes: 0,
        }
    }

    /// Creates a decoder of BDAT (RFC 3030): only the caller knows the end and calls [`Decoder::finish`].
    pub fn for_bdat(limit: u64) -> Self {
        Self { dot_unstuffing: false, ..Self::new(limit) }
    }

    /// The chunks are over; a last line without an end gets one.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !matches!(self.state, DecoderState::LineStart { .. }) {
            self.append_within_limit(b"\r\n", out);
            self.state = DecoderState::LineStart { after_crlf: true };
        }
    }

    /// Whether the message is larger than the limit.
    pub fn is_over_limit(&self) -> bool {
        self.decoded_bytes > self.max_bytes
    }

    /// Decodes a piece and appends it to `out`.
    pub fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) -> FeedResult {
        let mut index = 0;
        while index < piece.len() {
            let in_text = match self.state {
                DecoderState::Text => true,
                DecoderState::LineStart { .. } => match piece[index] {
                    b'.' => !self.dot_unstuffing,
                    byte => byte != b'\r' && byte != b'\n',
                },
                _ => false,
            };
            if in_text {
                let rest = &piece[index..];
                let run = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                if rest[run..].starts_with(b"\r\n") {
                    // The usual line, in one piece.
                    self.append_within_limit(&rest[..run + 2], out);
                    self.state = DecoderState::LineStart { after_crlf: true };
                    index += run + 2;
                    continue;
                }
                self.append_within_limit(&rest[..run], out);
                self.state = DecoderState::Text;
                index += run;
                if index == piece.len() {
                    break;
                }
            }
            let byte = piece[index];
            index += 1;
            if self.feed_byte(byte, out) {
                return FeedResult::Complete(index);
            }
        }
        FeedResult::NeedMore
    }

    /// One byte where it matters; true at the end of the data.
    fn feed_byte(&mut self, byte: u8, out: &mut Vec<u8>) -> bool {
        self.state = match (self.state, byte) {
            (DecoderState::LineStart { after_crlf }, b'.') if self.dot_unstuffing => {
                DecoderState::Dot { after_crlf }
            }
            (DecoderState::DotCr { after_crlf: true }, b'\n') => return true,
            (DecoderState::DotCr { after_crlf: false }, b'\n') => {
                self.append_within_limit(b".\r\n", out);
                DecoderState::LineStart { after_crlf: true }
            }
            (DecoderState::DotCr { .. }, _) => {
                self.append_within_limit(b".\r\n", out);
                // Clients do not double a dot after a bare CR.
                self.state = DecoderState::Text;
                return self.feed_byte(byte, out);
            }
            (DecoderState::Dot { after_crlf }, b'\r') => DecoderState::DotCr { after_crlf },
            (DecoderState::Dot { .. }, b'\n') => {
                self.append_within_limit(b".\r\n", out);
                DecoderState::LineStart { after_crlf: false }
            }
            (DecoderState::Cr, b'\n') => {
                self.append_within_limit(b"\r\n", out);
                DecoderState::LineStart { after_crlf: true }
            }
            (DecoderState::Cr, _) => {
                self.append_within_limit(b"\r\n", out);
                self.state = DecoderState::Text;
                return self.feed_byte(byte, out);
            }
            (_, b'\r') => DecoderState::Cr,
            (_, b'\n') => {
                self.append_within_limit(b"\r\n", out);
                DecoderState::LineStart { after_crlf: false }
            }
            (_, byte) => {
                self.append_within_limit(&[byte], out);
                DecoderState::Text
            }
        };
        false
    }

    fn append_within_limit(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.decoded_bytes += bytes.len() as u64;
        if self.decoded_bytes <= self.max_bytes {
            out.extend_from_slice(bytes);
        }
    }
}

/// Finds the dots that must be doubled in a message as it leaves, in pieces of any size. Its line ends are CRLF.
#[derive(Debug, Default)]
pub struct DotStuffer {
    preceding: PrecedingByte,
}

/// Position in the line at which a piece begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PrecedingByte {
    #[default]
    LineEnd,
    Cr,
    Text,
}

impl DotStuffer {
    /// The places in a piece in front of which another dot belongs.
    pub fn positions<'a>(&mut self, piece: &'a [u8]) -> impl Iterator<Item = usize> + use<'a> {
        let first = match self.preceding {
            PrecedingByte::LineEnd if piece.starts_with(b".") => Some(0),
            PrecedingByte::Cr if piece.starts_with(b"\n.") => Some(1),
            _ => None,
        };
        self.preceding = match piece {
            [] => self.preceding,
            b"\n" if self.preceding == PrecedingByte::Cr => PrecedingByte::LineEnd,
            [.., b'\r', b'\n'] => PrecedingByte::LineEnd,
            [.., b'\r'] => PrecedingByte::Cr,
            _ => PrecedingByte::Text,
        };
        first.into_iter().chain(memmem::find_iter(piece, b"\r\n.").map(|at| at + 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes the input in pieces of `size`. Returns the output and the number of bytes left after the end.
    fn decode_in_pieces(input: &[u8], size: usize) -> Option<(Vec<u8>, usize)> {
        let (mut decoder, mut out) = (Decoder::new(1 << 20), Vec::new());
        for (number, piece) in input.chunks(size).enumerate() {
            if let FeedResult::Complete(used) = decoder.feed(piece, &mut out) {
                return Some((out, input.len() - number * size - used));
            }
        }
        None
    }

    fn assert_decodes(input: &str, expected: Option<(&str, usize)>) {
        for size in [1, 2, 3, 5, 7, 1000] {
            let got = decode_in_pieces(input.as_bytes(), size);
            let got = got.as_ref().map(|(text, rest)| (std::str::from_utf8(text).unwrap(), *rest));
            assert_eq!(got, expected, "{input:?} in pieces of {size}");
        }
    }

    #[test]
    fn unstuffs_dots_and_finds_the_end() {
        assert_decodes("a\r\n.\r\n", Some(("a\r\n", 0)));
        assert_decodes("..a\r\n...\r\n.b\r\n.\r\nQUIT\r\n", Some((".a\r\n..\r\nb\r\n", 6)));
        assert_decodes(".\r\n", Some(("", 0)));
        assert_decodes("\r\n.\r\n", Some(("\r\n", 0)));
        assert_decodes("a\r\n.", None);
        assert_decodes("a\r\n.\r", None);
    }

    #[test]
    fn bdat_chunks_are_not_unstuffed() {
        for (input, expected) in [
            ("..a\r\n.\r\nb\r\n", "..a\r\n.\r\nb\r\n"),
            ("a\n.\rb", "a\r\n.\r\nb\r\n"),
            ("a\r", "a\r\n"),
            (".", ".\r\n"),
            ("", ""),
        ] {
            for size in [1, 2, 3, 1000] {
                let (mut decoder, mut out) = (Decoder::for_bdat(1000), Vec::new());
                for piece in input.as_bytes().chunks(size) {
                    assert_eq!(decoder.feed(piece, &mut out), FeedResult::NeedMore);
                }
                decoder.finish(&mut out);
                assert_eq!(String::from_utf8(out).unwrap(), expected, "{input:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn only_crlf_dot_crlf_ends_data() {
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
            assert_decodes(input, Some((expected, 0)));
        }
    }

    /// The message as it goes over the wire, handed over in pieces.
    fn encode_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let (mut encoder, mut wire) = (DotStuffer::default(), Vec::new());
        for piece in pieces {
            let mut from = 0;
            for at in encoder.positions(piece) {
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
    fn stuffs_dots_at_any_piece_boundary() {
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
                    let wire = String::from_utf8(encode_pieces(pieces.into_iter())).unwrap();
                    assert_eq!(wire, expected, "cut at {first} and {second}");
                }
            }
            assert_eq!(encode_pieces(message.chunks(1)), expected.as_bytes());
        }
    }

    #[test]
    fn encoding_round_trips() {
        for message in ["", "a\r\n", ".a\r\n..b\r\n\r\n.\r\n", "\r\n.\r\n", ".\r\n"] {
            for size in 1..8 {
                let wire = encode_pieces(message.as_bytes().chunks(size));
                assert_eq!(
                    decode_in_pieces(&wire, size),
                    Some((message.as_bytes().to_vec(), 0)),
                    "{message:?}"
                );
            }
        }
    }

    #[test]
    fn reads_oversized_data_to_its_end() {
        let (mut decoder, mut out) = (Decoder::new(4), Vec::new());
        assert_eq!(decoder.feed(b"ab\r\ncd\r\n.\r\nNOOP\r\n", &mut out), FeedResult::Complete(11));
        assert!(decoder.is_over_limit() && out.len() <= 4);
        let mut decoder = Decoder::new(4);
        assert_eq!(decoder.feed(b"ab\r\n.\r\n", &mut Vec::new()), FeedResult::Complete(7));
        assert!(!decoder.is_over_limit());
    }
}
