/// Returns the positions in the value of an address field where a domain is missing: after each address without one,
/// such as `root` and `Cron <root>`. A text of several words without brackets is left unchanged, as are group names.
pub fn find_missing_domains(value: &[u8]) -> Vec<usize> {
    let mut scan = AddressScanner::default();
    let (mut quoted, mut comments, mut at) = (false, 0usize, 0);
    while at < value.len() {
        let byte = value[at];
        match byte {
            b'\\' if quoted => {
                scan.push_word_byte(at, byte);
                at += 1;
                scan.push_word_byte(at, byte);
            }
            b'\\' if comments > 0 => at += 1,
            b'"' if comments == 0 => {
                quoted = !quoted;
                scan.push_word_byte(at, byte);
            }
            _ if quoted => scan.push_word_byte(at, byte),
            b'(' => comments += 1,
            b')' if comments > 0 => comments -= 1,
            _ if comments > 0 => {}
            byte => scan.feed_byte(at, byte),
        }
        at += 1;
    }
    if !quoted {
        scan.finish_address();
    }
    scan.positions
}

/// State of parsing the current address.
#[derive(Default)]
struct AddressScanner {
    positions: Vec<usize>,
    word_count: usize,
    /// Position after its last word.
    word_end: usize,
    /// Whether a domain follows, or it is none that one could be given to.
    is_qualified: bool,
    is_bracketed: bool,
}

impl AddressScanner {
    fn feed_byte(&mut self, at: usize, byte: u8) {
        match byte {
            b'<' => {
                *self = Self {
                    positions: std::mem::take(&mut self.positions),
                    is_bracketed: true,
                    ..Self::default()
                }
            }
            b'>' if self.is_bracketed => {
                self.finish_address();
                self.is_qualified = true;
            }
            b',' | b';' if !self.is_bracketed => self.finish_address(),
            // The name of a group, or within brackets a route.
            b':' => {
                *self = Self {
                    positions: std::mem::take(&mut self.positions),
                    is_qualified: self.is_bracketed,
                    ..Self::default()
                }
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            byte => self.push_word_byte(at, byte),
        }
    }

    fn push_word_byte(&mut self, at: usize, byte: u8) {
        self.word_count += usize::from(self.word_count == 0 || at > self.word_end);
        self.word_end = at + 1;
        self.is_qualified |= matches!(byte, b'@' | b'=') || !byte.is_ascii();
    }

    fn finish_address(&mut self) {
        if self.word_count == 1 && !self.is_qualified {
            self.positions.push(self.word_end);
        }
        *self = Self { positions: std::mem::take(&mut self.positions), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_missing_domain() {
        for (value, expected) in [
            (" root (Cron Daemon)", " root@h (Cron Daemon)"),
            ("root", "root@h"),
            (" \"(Cron Daemon)\" <root>", " \"(Cron Daemon)\" <root@h>"),
            (" Ada L. < root >, web", " Ada L. < root@h >, web@h"),
            (" root, Ops <ops>,\r\n web,a@b.c", " root@h, Ops <ops@h>,\r\n web@h,a@b.c"),
            (" \"root, web\" <a@b.c>", " \"root, web\" <a@b.c>"),
            (" \"a \\\" b\"", " \"a \\\" b\"@h"),
            (" (a, (b) c) root", " (a, (b) c) root@h"),
            (" team: ada, Bob <bob>;, eve", " team: ada@h, Bob <bob@h>;, eve@h"),
            (" undisclosed-recipients:;", " undisclosed-recipients:;"),
            (" <@a,@b:c@d>, <>", " <@a,@b:c@d>, <>"),
            (" Cron Daemon", " Cron Daemon"),
            (" =?utf-8?Q?J=C3=B6rg?=", " =?utf-8?Q?J=C3=B6rg?="),
            (" =?utf-8?Q?J=C3=B6rg?= <joerg>", " =?utf-8?Q?J=C3=B6rg?= <joerg@h>"),
            (" Jörg", " Jörg"),
            (" a@b.c (root)", " a@b.c (root)"),
            (" <root> (web)", " <root@h> (web)"),
            ("", ""),
            (" \\", " \\@h"),
            (" (a", " (a"),
            (" \"a\\", " \"a\\"),
        ] {
            let mut written = value.to_owned();
            find_missing_domains(value.as_bytes())
                .into_iter()
                .rev()
                .for_each(|at| written.insert_str(at, "@h"));
            assert_eq!(written, expected, "{value}");
        }
    }
}
