/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// What was looked at: one of a few words, such as `login` or `spf`.
    pub check: &'static str,
    /// Whose: an upstream, a domain, a file; empty where there is only one.
    pub subject: String,
    /// How it stands.
    pub status: CheckStatus,
    /// What was seen.
    pub message: String,
    /// What helps; empty where nothing needs help.
    pub remedy: String,
}

/// How something stands, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// It could not be found out.
    Unknown,
    /// It works, and will not for ever, or not as well as it could.
    Warn,
    /// It does not work.
    Fail,
}

impl CheckStatus {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl CheckResult {
    /// Something that is as it should be.
    pub fn ok(check: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        let (subject, message) = (subject.into(), what.into());
        Self { check, subject, status: CheckStatus::Ok, message, remedy: String::new() }
    }

    /// Something that is not.
    pub fn problem(
        status: CheckStatus,
        check: &'static str,
        subject: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (subject, message, remedy) = (subject.into(), what.into(), remedy.into());
        Self { check, subject, status, message, remedy }
    }

    /// An error of ours: it says what is wrong and, behind its last semicolon, what helps; `otherwise` stands in for
    /// that.
    pub fn from_error(
        status: CheckStatus,
        check: &'static str,
        subject: impl Into<String>,
        error: &dyn std::fmt::Display,
        otherwise: &str,
    ) -> Self {
        let text = error.to_string();
        let (what, remedy) = text.rsplit_once("; ").unwrap_or((&text, otherwise));
        Self::problem(status, check, subject, what, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_remedy_from_error_text() {
        let of = |text: &str| {
            let finding = CheckResult::from_error(CheckStatus::Fail, "login", "up", &text, "look there");
            (finding.message, finding.remedy)
        };
        assert_eq!(of("it broke; again; mend it"), ("it broke; again".into(), "mend it".into()));
        assert_eq!(of("it broke"), ("it broke".into(), "look there".into()));
    }
}
