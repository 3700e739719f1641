//! The `Link` and `Location` headers of API answers.

/// Link relations that would lead a client to Xet.
const XET_RELATIONS: [&str; 2] = ["xet-auth", "xet-reconstruction-info"];

/// Rewrites a `Link` header: targets on one of `upstream_bases` (`https://huggingface.co`), absolute paths, and paths of the
/// API on any host move to `mirror_base`; other links go, those to Xet among them. Returns nothing when no link is left.
///
/// An upstream may know itself by another name than we do, and a client must not be led away with its token. The result is
/// always absolute with a space after each semicolon, since Python clients crash on a relative target and the JavaScript
/// client demands the space.
pub fn link_header(value: &str, upstream_bases: &[&str], mirror_base: &str) -> Option<String> {
    let mut links = Vec::new();
    for (target, parameters) in Links(value) {
        if target.chars().any(char::is_control) || parameters.iter().any(|parameter| is_xet_relation(parameter)) {
            continue;
        }
        let is_ours = moved(target, &[mirror_base], mirror_base);
        let Some(target) =
            is_ours.or_else(|| moved(target, upstream_bases, mirror_base)).or_else(|| moved_api(target, mirror_base))
        else {
            continue;
        };
        let mut link = format!("<{target}>");
        for parameter in parameters {
            link.push_str("; ");
            link.push_str(parameter);
        }
        links.push(link);
    }
    if links.is_empty() { None } else { Some(links.join(", ")) }
}

/// Rewrites the `Location` of an API redirect: a target on upstream moves to `mirror_base`, a relative one stays relative
/// (old clients follow nothing else). Returns nothing for a target elsewhere, which a client must not be sent to with
/// its token.
pub fn location_header(value: &str, upstream_bases: &[&str], mirror_base: &str) -> Option<String> {
    let value = value.trim();
    if value.is_empty() || value.chars().any(char::is_control) {
        return None;
    }
    let has_host = value.starts_with("//") || value.starts_with('\\') || value.starts_with("/\\") || has_scheme(value);
    if has_host { moved(value, upstream_bases, mirror_base) } else { Some(value.to_owned()) }
}

/// Returns the target on the mirror, or nothing when it does not lead to upstream.
fn moved(target: &str, upstream_bases: &[&str], mirror_base: &str) -> Option<String> {
    let mirror_base = mirror_base.trim_end_matches('/');
    if target.starts_with('/') && !target.starts_with("//") && !target.starts_with("/\\") {
        return Some(format!("{mirror_base}{target}"));
    }
    for base in upstream_bases {
        let base = base.trim_end_matches('/');
        let Some((head, rest)) = target.split_at_checked(base.len()) else { continue };
        // `https://huggingface.co.evil.org` begins with the base too, so the base must end where the host does.
        if !base.is_empty() && head.eq_ignore_ascii_case(base) && (rest.is_empty() || rest.starts_with(['/', '?', '#'])) {
            return Some(format!("{mirror_base}{rest}"));
        }
    }
    None
}

/// Returns the target on the mirror, whatever its host, if it is a question of the API.
fn moved_api(target: &str, mirror_base: &str) -> Option<String> {
    let (_, rest) = target.split_once("://")?;
    let path = &rest[rest.find('/')?..];
    path.starts_with("/api/").then(|| format!("{}{path}", mirror_base.trim_end_matches('/')))
}

fn has_scheme(value: &str) -> bool {
    let scheme_len = value.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
    scheme_len > 0 && value[scheme_len..].starts_with(':')
}

fn is_xet_relation(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    name.trim().eq_ignore_ascii_case("rel")
        && value
            .trim()
            .trim_matches('"')
            .split_ascii_whitespace()
            .any(|relation| XET_RELATIONS.iter().any(|xet| relation.eq_ignore_ascii_case(xet)))
}

/// Walks the links of a header value: each a target and its parameters. What is not a link is skipped up to the next comma.
struct Links<'a>(&'a str);

impl<'a> Iterator for Links<'a> {
    type Item = (&'a str, Vec<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.0 = self.0.trim_start_matches([',', ' ', '\t']);
            if self.0.is_empty() {
                return None;
            }
            let Some(rest) = self.0.strip_prefix('<') else {
                let (_, rest) = split_unquoted(self.0, ',');
                self.0 = rest;
                continue;
            };
            let (target, rest) = rest.split_once('>')?;
            let (mut parameters, rest) = split_unquoted(rest, ',');
            self.0 = rest;
            let mut list = Vec::new();
            while !parameters.is_empty() {
                let (parameter, rest) = split_unquoted(parameters, ';');
                parameters = rest;
                let parameter = parameter.trim();
                if !parameter.is_empty() && !parameter.chars().any(char::is_control) {
                    list.push(parameter);
                }
            }
            return Some((target.trim(), list));
        }
    }
}

/// Splits at the first separator outside a quoted string; without one the second half is empty.
pub(crate) fn split_unquoted(text: &str, separator: char) -> (&str, &str) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if letter == separator && !quoted => return (&text[..at], &text[at + letter.len_utf8()..]),
            _ => {}
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM: &[&str] = &["https://huggingface.co", "https://hf.co"];
    const MIRROR: &str = "http://mirror:8090";

    #[test]
    fn links_lead_to_the_mirror_and_never_to_xet() {
        fn check(value: &str, expected: Option<&str>) {
            assert_eq!(link_header(value, UPSTREAM, MIRROR).as_deref(), expected, "{value}");
        }
        check(
            "<https://huggingface.co/api/models/o/m/tree/main?cursor=a%3D%3D>; rel=\"next\"",
            Some("<http://mirror:8090/api/models/o/m/tree/main?cursor=a%3D%3D>; rel=\"next\""),
        );
        check("</api/models?p=1>;rel=\"next\"", Some("<http://mirror:8090/api/models?p=1>; rel=\"next\""));
        check("<https://HF.co?x>;rel=next;title=\"a;b,c\"", Some("<http://mirror:8090?x>; rel=next; title=\"a;b,c\""));
        check(
            "<https://hf.co/a,b>; rel=\"next\" , </c>; rel=\"prev\"",
            Some("<http://mirror:8090/a,b>; rel=\"next\", <http://mirror:8090/c>; rel=\"prev\""),
        );
        check(
            "<https://huggingface.co/api/models/o/m/xet-read-token/1>; rel=\"xet-auth\", <https://cas-server.xethub.hf.co/v1/reconstructions/6>; rel=\"xet-reconstruction-info\"",
            None,
        );
        check("<https://hf.co/t>; rel=\"xet-auth\", </n>; rel=\"next\"", Some("<http://mirror:8090/n>; rel=\"next\""));
        check("</t>; REL=\"up Xet-Auth\"", None);
        check("<https://huggingface.co.evil.org/a>; rel=\"next\"", None);
        check("<//evil.org/a>; rel=\"next\"", None);
        check("<https://another.name/api/models?p=1>; rel=\"next\"", Some("<http://mirror:8090/api/models?p=1>; rel=\"next\""));
        check("<https://another.name/apiary>; rel=\"next\", <https://another.name>; rel=\"up\"", None);
        check("nonsense, </n>; rel=\"next\"", Some("<http://mirror:8090/n>; rel=\"next\""));
        check("</unclosed; rel=\"next\"", None);
        check("", None);
    }

    #[test]
    fn a_redirect_stays_on_the_mirror() {
        fn check(value: &str, expected: Option<&str>) {
            assert_eq!(location_header(value, UPSTREAM, MIRROR).as_deref(), expected, "{value}");
        }
        check("/api/models/openai-community/gpt2?blobs=true", Some("/api/models/openai-community/gpt2?blobs=true"));
        check("https://huggingface.co/api/models/o/m", Some("http://mirror:8090/api/models/o/m"));
        check("tree/main", Some("tree/main"));
        check("https://us.aws.cdn.hf.co/x?Signature=1", None);
        check("//evil.org/x", None);
        check("/\\evil.org/x", None);
        check("javascript:alert(1)", None);
        check("/a\r\nb", None);
        check("", None);
    }
}
