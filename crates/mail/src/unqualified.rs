/// Where in the value of an address field a domain is missing: behind each address that has none, as `root` and
/// `Cron <root>`. A text of several words without brackets is left alone, as are names of groups.
pub fn missing_domains(value: &[u8]) -> Vec<usize> {
    let mut scan = Scan::default();
    let (mut quoted, mut comments, mut at) = (false, 0usize, 0);
    while at < value.len() {
        let byte = value[at];
        match byte {
            b'\\' if quoted => {
                scan.word(at, byte);
                at += 1;
                scan.word(at, byte);
            }
            b'\\' if comments > 0 => at += 1,
            b'"' if comments == 0 => {
                quoted = !quoted;
                scan.word(at, byte);
            }
            _ if quoted => scan.word(at, byte),
            b'(' => comments += 1,
            b')' if comments > 0 => comments -= 1,
            _ if comments > 0 => {}
            byte => scan.take(at, byte),
        }
        at += 1;
    }
    if !quoted {
        scan.end();
    }
    scan.found
}

/// What was seen of the present address.
#[derive(Default)]
struct Scan {
    found: Vec<usize>,
    words: usize,
    /// Behind the last byte of its last word.
    end: usize,
    /// Whether a domain follows, or it is none that one could be given to.
    whole: bool,
    bracketed: bool,
}

impl Scan {
    fn take(&mut self, at: usize, byte: u8) {
        match byte {
            b'<' => {
                *self = Self { found: std::mem::take(&mut self.found), bracketed: true, ..Self::default() }
            }
            b'>' if self.bracketed => {
                self.end();
                self.whole = true;
            }
            b',' | b';' if !self.bracketed => self.end(),
            // The name of a group, or within brackets a route.
            b':' => {
                *self =
                    Self { found: std::mem::take(&mut self.found), whole: self.bracketed, ..Self::default() }
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            byte => self.word(at, byte),
        }
    }

    fn word(&mut self, at: usize, byte: u8) {
        self.words += usize::from(self.words == 0 || at > self.end);
        self.end = at + 1;
        self.whole |= matches!(byte, b'@' | b'=') || !byte.is_ascii();
    }

    fn end(&mut self) {
        if self.words == 1 && !self.whole {
            self.found.push(self.end);
        }
        *self = Self { found: std::mem::take(&mut self.found), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_gets_a_domain() {
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
            missing_domains(value.as_bytes()).into_iter().rev().for_each(|at| written.insert_str(at, "@h"));
            assert_eq!(written, expected, "{value}");
        }
    }
}
