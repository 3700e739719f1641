//! The type and the disposition of a file answer, as the Hub gives them.

use super::escape::quote_segment;

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// Endings of file names that are served as plain text, as the Hub does. Scripts and pages are among them, so that no
/// browser ever runs what a stranger uploaded.
const TEXT_ENDINGS: [&str; 34] = [
    "txt", "md", "rst", "json", "jsonl", "yaml", "yml", "toml", "ini", "cfg", "conf", "csv", "tsv", "xml", "html", "htm", "css",
    "js", "ts", "py", "ipynb", "sh", "c", "h", "cpp", "cu", "rs", "go", "java", "lock", "jinja", "log", "tex", "vocab",
];
/// Whole names (in lower case) of the same kind.
const TEXT_NAMES: [&str; 6] = ["license", "readme", "dockerfile", "makefile", ".gitattributes", ".gitignore"];

/// Returns the `Content-Type` of a file by its path.
pub fn content_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let is_among = |known: &[&str], text: &str| known.iter().any(|one| one.eq_ignore_ascii_case(text));
    if is_among(&TEXT_ENDINGS, ending) || is_among(&TEXT_NAMES, name) { TEXT } else { BINARY }
}

/// Returns the `Content-Disposition` of a file by its name: always ASCII, with the true name in the first parameter.
pub fn content_disposition(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|letter| match letter {
            '"' | '\\' | '%' => '_',
            ' '..='~' => letter,
            _ => '?',
        })
        .collect();
    format!("inline; filename*=UTF-8''{}; filename=\"{plain}\";", quote_segment(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_and_weights_are_bytes() {
        fn check(path: &str, expected: &str) {
            assert_eq!(content_type(path), expected, "{path}");
        }
        check("config.json", TEXT);
        check("sub/README.md", TEXT);
        check("LICENSE", TEXT);
        check(".gitattributes", TEXT);
        check("index.HTML", TEXT);
        check("model.safetensors", BINARY);
        check("json", BINARY);
        check("a.json/weights", BINARY);
        check("", BINARY);
    }

    #[test]
    fn a_disposition_is_ascii_and_closed() {
        fn check(name: &str, expected: &str) {
            assert_eq!(content_disposition(name), expected);
        }
        check("config.json", "inline; filename*=UTF-8''config.json; filename=\"config.json\";");
        check("a \"b\"\u{e9}.txt", "inline; filename*=UTF-8''a%20%22b%22%C3%A9.txt; filename=\"a _b_?.txt\";");
    }
}
