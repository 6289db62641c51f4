//! What a stranger's name for a file becomes before it touches a disk or a screen.

/// Longest safe name, in bytes: leaves room for a number where the name is taken.
pub const SAFE_MAX: usize = 200;
/// Longest ending (`.tar`) that is kept where a name is cut, in bytes.
const ENDING_MAX: usize = 16;
/// What a file system, or a shell where a name stands without quotes, takes for something else: each becomes `_`.
pub const MEANINGFUL: &str = "<>:\"|?*$`;&'(){}[]!#%^";

/// A name that is one: no path, nothing hidden, no control, nothing without width or ink but single spaces, none of
/// [`MEANINGFUL`]. Always the same for the same input; a safe name stays as it is.
#[must_use]
pub fn safe(advice: &str) -> String {
    let last = advice.rsplit(['/', '\\']).next().unwrap_or_default();
    let kept = last.chars().filter(|c| !is_invisible(*c));
    let kept: String = kept
        .map(|c| if MEANINGFUL.contains(c) { '_' } else { c })
        .collect();
    // Many would hide an ending.
    let kept = kept.split_whitespace().collect::<Vec<_>>().join(" ");
    let name = trim(&cut(trim(&kept))).to_owned();
    if name.is_empty() {
        return "file".to_owned();
    }
    if name.starts_with(['-', '~', '=']) || is_device(&name) {
        return trim(&cut(&format!("_{name}"))).to_owned();
    }
    name
}

/// The n-th name to try where others are taken, from 1: `a.txt`, `a-2.txt`, `a-3.txt`.
#[must_use]
pub fn numbered(name: &str, number: u32) -> String {
    if number <= 1 {
        return name.to_owned();
    }
    let (stem, ending) = split(name);
    format!("{stem}-{number}{ending}")
}

/// Hidden files, and what Windows drops at the end.
fn trim(name: &str) -> &str {
    let dull = |c: char| c == '.' || c.is_whitespace();
    name.trim_matches(dull)
}

/// Controls, marks of direction, and what else has no width or no ink: they hide what a name is.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{34f}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{17b4}'
                | '\u{17b5}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{ffa0}'
        )
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..='\u{e0fff}')
}

/// What Windows takes for a device, whatever its ending.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end();
    let stem = stem.to_ascii_uppercase();
    let numbered = |prefix: &str| {
        let rest = stem.strip_prefix(prefix);
        rest.is_some_and(|rest| matches!(rest.as_bytes(), [b'0'..=b'9']))
    };
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL") || numbered("COM") || numbered("LPT")
}

fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if at > 0 && name.len() - at <= ENDING_MAX => name.split_at(at),
        _ => (name, ""),
    }
}

/// At most [`SAFE_MAX`] bytes, with the ending.
fn cut(name: &str) -> String {
    if name.len() <= SAFE_MAX {
        return name.to_owned();
    }
    let (stem, ending) = split(name);
    let mut length = SAFE_MAX - ending.len();
    while !stem.is_char_boundary(length) {
        length -= 1;
    }
    format!("{}{ending}", &stem[..length])
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_names_become_harmless() {
        for (advice, expected) in [
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", "passwd"),
            ("..\\..\\boot.ini", "boot.ini"),
            ("/", "file"),
            ("..", "file"),
            ("a/..", "file"),
            (".bashrc", "bashrc"),
            ("a\0b\n.txt", "ab.txt"),
            ("invoice\u{202e}fdp.exe", "invoicefdp.exe"),
            ("c:evil", "c_evil"),
            ("nul.txt", "_nul.txt"),
            ("COM7", "_COM7"),
            ("-rf", "_-rf"),
            ("~root", "_~root"),
            ("  spaces. ", "spaces"),
            ("übung.txt", "übung.txt"),
            ("$(reboot)`id`;&.sh", "__reboot__id___.sh"),
            ("it's {a}[b]!#.txt", "it_s _a__b___.txt"),
            ("invoice.pdf  \u{a0}\u{3000}   .exe", "invoice.pdf .exe"),
            ("a\u{3164}\u{2800}\u{115f}\u{ffa0}\u{34f}b", "ab"),
            ("\u{3164}", "file"),
            ("=ls", "_=ls"),
        ] {
            assert_eq!(safe(advice), expected, "{advice:?}");
        }
        let long = safe(&format!("{}.tar", "é".repeat(120)));
        assert!(long.len() <= SAFE_MAX && long.ends_with("é.tar"), "{long}");
    }

    #[test]
    fn names_that_are_taken_get_a_number_before_their_ending() {
        assert_eq!(numbered("a.txt", 1), "a.txt");
        assert_eq!(numbered("a.txt", 2), "a-2.txt");
        assert_eq!(numbered("a", 3), "a-3");
    }

    proptest! {
        #[test]
        fn a_safe_name_is_one_and_stays(advice in any::<String>(), ending in "[./\\\\ ~a\u{2800}\u{3164}$`;&'(){}!\\[\\]#=-]{0,9}") {
            let name = safe(&(advice + &ending));
            prop_assert!(!name.is_empty() && name.len() <= SAFE_MAX);
            prop_assert!(!name.starts_with('.'));
            prop_assert!(!name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\')));
            prop_assert!(!name.contains(|c| MEANINGFUL.contains(c) || is_invisible(c)));
            prop_assert!(!name.contains(|c: char| c.is_whitespace() && c != ' ') && !name.contains("  "));
            let parts: Vec<_> = Path::new(&name).components().collect();
            prop_assert!(matches!(parts[..], [Component::Normal(_)]));
            prop_assert_eq!(safe(&name), name);
        }
    }
}
