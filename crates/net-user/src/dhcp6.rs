//! DHCPv6 server without addresses (RFC 8415, 18.3.6): answers Information-request messages with the name
//! server (RFC 3646, 3) and the file to boot (RFC 5970, 3.1), each if it is asked for.
//!
//! Not modelled: everything that gives addresses (they come from the advertised prefix), search domains.

use std::fmt::Write as _;

use crate::config::{Config, V6};
use crate::wire::Fields as _;

const INFORMATION_REQUEST: u8 = 11;
const REPLY: u8 = 7;

const CLIENT_ID: u16 = 1;
const OPTION_REQUEST: u16 = 6;
const DNS_SERVERS: u16 = 23;
const BOOT_FILE_URL: u16 = 59;

/// Longest identifier of a client that is given back.
const MAX_ID: usize = 256;

fn option(out: &mut Vec<u8>, code: u16, data: &[u8]) {
    let Ok(len) = u16::try_from(data.len()) else { return };
    out.extend(code.to_be_bytes());
    out.extend(len.to_be_bytes());
    out.extend(data);
}

/// The address with all its zeros, as QEMU writes it.
fn url(v6: &V6, file: &str) -> String {
    let mut text = String::from("tftp://[");
    for (n, word) in v6.host.segments().iter().enumerate() {
        let colon = if n == 0 { "" } else { ":" };
        _ = write!(text, "{colon}{word:04x}");
    }
    _ = write!(text, "]/{file}");
    text
}

/// The answer to a message of the guest; `None` if it is no such request, or broken.
pub(crate) fn answer(config: &Config, v6: &V6, message: &[u8]) -> Option<Vec<u8>> {
    let [kind, transaction @ ..] = message.array::<4>(0)?;
    if kind != INFORMATION_REQUEST || config.restrict {
        return None;
    }
    let (mut id, mut dns, mut file) = (None, false, false);
    let mut options = message.get(4..)?;
    while !options.is_empty() {
        let (code, len) = (options.at16(0)?, usize::from(options.at16(2)?));
        let data = options.get(4..4 + len)?;
        match code {
            CLIENT_ID if len > MAX_ID => return None,
            CLIENT_ID => id = Some(data),
            OPTION_REQUEST if len % 2 != 0 => return None,
            OPTION_REQUEST => {
                let asks = |code: u16| data.chunks_exact(2).any(|c| *c == code.to_be_bytes());
                dns |= asks(DNS_SERVERS);
                file |= asks(BOOT_FILE_URL);
            }
            _ => {}
        }
        options = options.get(4 + len..)?;
    }
    let mut out = vec![REPLY];
    out.extend(transaction);
    if let Some(id) = id {
        option(&mut out, CLIENT_ID, id);
    }
    if dns {
        option(&mut out, DNS_SERVERS, &v6.dns.octets());
    }
    if let Some(name) = config.bootfile.as_ref().filter(|_| file) {
        option(&mut out, BOOT_FILE_URL, url(v6, name).as_bytes());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &[u8] = b"\0\x03\0\x01RT\0\x124V";

    fn request(parts: &[(u16, &[u8])]) -> Vec<u8> {
        let mut all = vec![INFORMATION_REQUEST, 0x11, 0x22, 0x33];
        parts.iter().for_each(|(code, data)| option(&mut all, *code, data));
        all
    }

    fn reply(parts: &[(u16, &[u8])]) -> Option<Vec<u8>> {
        let mut all = request(parts);
        all[0] = REPLY;
        Some(all)
    }

    #[test]
    fn what_is_asked_for_is_told() {
        let config = Config { bootfile: Some("boot.efi".into()), ..Config::default() };
        let v6 = V6::default();
        let dns = v6.dns.octets();
        // As QEMU 10.0.2 answers the same requests.
        let url = b"tftp://[fec0:0000:0000:0000:0000:0000:0000:0002]/boot.efi";
        let (dns, url) = ((23, &dns[..]), (59, &url[..]));
        let id = (1, ID);
        let ask = |parts: &[(u16, &[u8])]| answer(&config, &v6, &request(parts));
        assert_eq!(ask(&[id, (6, &[0, 23, 0, 59, 0, 24])]), reply(&[id, dns, url]));
        assert_eq!(ask(&[id, (6, &[0, 23]), (6, &[0, 59])]), reply(&[id, dns, url]));
        assert_eq!(ask(&[(8, &[0, 0]), id, (6, &[0, 23]), (16, b"abcd")]), reply(&[id, dns]));
        assert_eq!(ask(&[(6, &[0, 59])]), reply(&[url]));
        assert_eq!(ask(&[id]), reply(&[id]));
        let nameless = Config::default();
        assert_eq!(answer(&nameless, &v6, &request(&[(6, &[0, 59])])), reply(&[]));
    }

    #[test]
    fn other_and_broken_messages_are_not_answered() {
        let (config, v6) = (Config::default(), V6::default());
        let whole = request(&[(1, ID), (6, &[0, 23])]);
        assert!(answer(&config, &v6, &whole).is_some());
        for kind in [0, 1, 3, 7, 255] {
            let mut other = whole.clone();
            other[0] = kind;
            assert_eq!(answer(&config, &v6, &other), None, "{kind}");
        }
        let ends = [4, 4 + 4 + ID.len(), whole.len()];
        for len in 0..=whole.len() {
            let answered = answer(&config, &v6, &whole[..len]).is_some();
            assert_eq!(answered, ends.contains(&len), "{len}");
        }
        assert_eq!(answer(&config, &v6, &request(&[(6, &[0, 23, 0])])), None);
        assert_eq!(answer(&config, &v6, &request(&[(1, &[7; 257])])), None);
        let closed = Config { restrict: true, ..Config::default() };
        assert_eq!(answer(&closed, &v6, &whole), None);
    }
}
