//! Many keys at once, in and out.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal as _, Write};
use std::path::Path;

use keywheel_api::import::MAX_IMPORT;
use keywheel_api::{ExportedVersion, Import, ImportItem, ImportRefusal, Imported, RefusedItem, Timestamp};
use keywheel_keyring::{Digest, PlainKey};
use serde::{Deserialize, Serialize};

use super::key::segment;
use crate::args::{self, Format};
use crate::failure::Failure;
use crate::http::Api;
use crate::output::{Output, counted, table};

/// Refused lines that are shown to a person; JSON has them all.
const SHOWN: usize = 20;

/// What became of all lines.
#[derive(Debug, Default, Serialize)]
struct Report {
    ring: String,
    dry_run: bool,
    imported: u64,
    present: u64,
    refused: Vec<RefusedLine>,
}

#[derive(Debug, Serialize)]
struct RefusedLine {
    /// From 1.
    line: u64,
    reason: ImportRefusal,
    detail: String,
}

/// A line as it is written. What is empty is absent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<Scopes> {
    key: Option<String>,
    digest: Option<String>,
    client: Option<String>,
    scopes: Option<Scopes>,
    expires_at: Option<String>,
    not_before: Option<String>,
}

/// A line of CSV as it is written.
#[derive(Debug, Serialize)]
struct Row<'a> {
    digest: String,
    client: &'a str,
    scopes: String,
    expires_at: Option<String>,
    not_before: Option<String>,
    key_id: &'a str,
    version: &'a str,
    state: &'a str,
}

type Read = (u64, Result<ImportItem, String>);

pub(crate) async fn run(args: args::Import, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    let format = args.format.unwrap_or_else(|| by_name(&args.from));
    let failed = |cause| Failure::List { path: args.from.clone(), cause };
    let input: Box<dyn BufRead> = if args.from == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(&args.from).map_err(failed)?))
    };
    let lines: Box<dyn Iterator<Item = io::Result<Read>>> = match format {
        Format::Csv => Box::new(csv_lines(input, args.client.clone())),
        Format::Jsonl => Box::new(json_lines(input, args.client.clone())),
    };
    let report = Report { ring: args.ring.clone(), dry_run: args.dry_run, ..Report::default() };
    let (mut items, mut refused) = (Vec::new(), Vec::new());
    for line in lines {
        match line.map_err(failed)? {
            (line, Ok(item)) => items.push((line, item)),
            (line, Err(detail)) => {
                refused.push(RefusedLine { line, reason: ImportRefusal::Invalid, detail });
            }
        }
    }
    if items.is_empty() && refused.is_empty() {
        return Err(Failure::EmptyList { path: args.from });
    }
    // What is next to each other in the database's index is written together, which halves the time of a large
    // import. Of lines with the same digest the first one stays the first.
    items.sort_by_key(|(_, item)| item.digest);
    let path = format!("/v1/rings/{}/import", segment(&args.ring));
    let report = RefCell::new(Report { refused, ..report });
    let batches = RefCell::new(items.chunks(MAX_IMPORT));
    let sender = || async {
        loop {
            let batch = batches.borrow_mut().next();
            let Some(batch) = batch else { return Ok::<_, Failure>(()) };
            let answer = send(&args, &path, api, batch).await?;
            let mut report = report.borrow_mut();
            report.add(batch, answer);
            if io::stderr().is_terminal() {
                eprint!("\r{} imported, {} refused", report.imported, report.refused.len());
            }
        }
    };
    // While one batch is written, the other is read.
    let sent = tokio::try_join!(sender(), sender());
    if io::stderr().is_terminal() {
        eprintln!();
    }
    sent?;
    let mut report = report.into_inner();
    report.refused.sort_by_key(|refused| refused.line);
    output.result(&report, human)?;
    if report.refused.is_empty() { Ok(()) } else { Err(Failure::ImportRefused(report.refused.len())) }
}

async fn send(
    args: &args::Import,
    path: &str,
    api: &Api<'_>,
    batch: &[(u64, ImportItem)],
) -> Result<Imported, Failure> {
    let items = batch.iter().map(|(_, item)| item.clone()).collect();
    let import = Import { items, dry_run: args.dry_run, create_clients: args.create_clients };
    // A batch whose answer was lost finds its keys there.
    api.post(path, &import).await
}

pub(crate) async fn export(args: args::Export, api: &Api<'_>, _: Output) -> Result<(), Failure> {
    let path = format!("/v1/rings/{}/export", segment(&args.ring));
    let mut items: Vec<ExportedVersion> = api.list(&path, &[]).await?;
    // What ended is not to come to life elsewhere.
    items.retain(|version| {
        !version.state.is_denied() && args.client.as_ref().is_none_or(|client| *client == version.client)
    });
    let out: Box<dyn Write> = match &args.to {
        Some(path) => {
            let failed = |cause| Failure::Write { path: path.clone(), cause };
            Box::new(BufWriter::new(File::create(path).map_err(failed)?))
        }
        None => Box::new(BufWriter::new(io::stdout().lock())),
    };
    Ok(write(&items, args.format, out)?)
}

impl Report {
    fn add(&mut self, batch: &[(u64, ImportItem)], answer: Imported) {
        let Imported { imported, present, refused, .. } = answer;
        self.imported = self.imported.saturating_add(imported);
        self.present = self.present.saturating_add(present);
        for RefusedItem { item, reason, detail } in refused {
            let line = usize::try_from(item).ok().and_then(|item| batch.get(item));
            let line = line.map(|(line, _)| *line).unwrap_or_default();
            self.refused.push(RefusedLine { line, reason, detail });
        }
    }
}

fn write(items: &[ExportedVersion], format: Format, mut out: impl Write) -> io::Result<()> {
    match format {
        Format::Jsonl => {
            for item in items {
                serde_json::to_writer(&mut out, item)?;
                writeln!(out)?;
            }
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(&mut out);
            for item in items {
                let row = Row {
                    digest: item.digest.to_string(),
                    client: &item.client,
                    scopes: item.scopes.join(" "),
                    expires_at: item.expires_at.map(|at| at.to_string()),
                    not_before: item.not_before.map(|at| at.to_string()),
                    key_id: &item.key,
                    version: &item.version,
                    state: super::key::state(item.state),
                };
                csv.serialize(row)?;
            }
            csv.flush()?;
        }
    }
    out.flush()
}

fn by_name(path: &Path) -> Format {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        Format::Csv
    } else {
        Format::Jsonl
    }
}

/// What an export has besides is left aside, so that it can be imported as it is.
fn csv_lines(input: impl BufRead, client: Option<String>) -> impl Iterator<Item = io::Result<Read>> {
    let mut csv = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(input);
    let head = csv.headers().cloned();
    let mut record = csv::StringRecord::new();
    std::iter::from_fn(move || {
        let head = match &head {
            Ok(head) => head,
            Err(error) => return Some(Err(io::Error::other(error.to_string()))),
        };
        let read = csv.read_record(&mut record);
        let line = record.position().map_or(0, csv::Position::line);
        match read {
            Ok(false) => None,
            Err(error) => match error.into_kind() {
                csv::ErrorKind::Io(error) => Some(Err(error)),
                kind => Some(Ok((line, Err(format!("no CSV: {kind:?}"))))),
            },
            Ok(true) => {
                let column = |name: &str| {
                    let at = head.iter().position(|column| column.eq_ignore_ascii_case(name))?;
                    record.get(at).filter(|text| !text.is_empty()).map(str::to_owned)
                };
                if record.len() > head.len() {
                    // A comma too many shifts what follows it.
                    let why = format!("{} fields, where the first line names {}", record.len(), head.len());
                    return Some(Ok((line, Err(why))));
                }
                let known = ["key", "digest"].iter().any(|name| column(name).is_some());
                let parsed = Line {
                    key: column("key"),
                    digest: column("digest"),
                    client: column("client"),
                    scopes: column("scopes")
                        .map(|scopes| scopes.split_whitespace().map(str::to_owned).collect::<Vec<_>>()),
                    expires_at: column("expires_at"),
                    not_before: column("not_before"),
                };
                let item = if known {
                    item(parsed, client.as_deref())
                } else {
                    Err("neither a `key` nor a `digest`: the first line names the columns".into())
                };
                Some(Ok((line, item)))
            }
        }
    })
}

fn json_lines(input: impl BufRead, client: Option<String>) -> impl Iterator<Item = io::Result<Read>> {
    let mut number: u64 = 0;
    input.lines().filter_map(move |line| {
        number = number.saturating_add(1);
        // The whole line is as secret as the key in it.
        let line = match line {
            Ok(line) => PlainKey::from(line),
            Err(error) => return Some(Err(error)),
        };
        if line.expose().trim().is_empty() {
            return None;
        }
        // The error of serde quotes what it met, which may be a key.
        let parsed = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line.expose());
        let parsed = parsed.map_err(|_| "no JSON object".to_owned()).and_then(|mut object| {
            for beside in ["version", "state"] {
                object.remove(beside);
            }
            // In an export `key` is an id, and the digest stands beside it.
            let is_id = |key: &serde_json::Value| key.as_str().is_some_and(|key| key.starts_with("key_"));
            if object.contains_key("digest") && object.get("key").is_some_and(is_id) {
                object.remove("key");
            }
            let wrong =
                "other members than `key` or `digest`, `client`, `scopes`, `expires_at`, or of another type";
            serde_json::from_value::<Line<Vec<String>>>(object.into()).map_err(|_| wrong.to_owned())
        });
        Some(Ok((number, parsed.and_then(|line| item(line, client.as_deref())))))
    })
}

fn item(line: Line<Vec<String>>, client: Option<&str>) -> Result<ImportItem, String> {
    let Line { key, digest, client: own, scopes, expires_at, not_before } = line;
    let key = key.map(PlainKey::from);
    if key.as_ref().is_some_and(|key| key.expose().contains(char::is_control)) {
        return Err("key: no proxy lets a control character pass, such as the end of a line".into());
    }
    let digest = match (key, digest) {
        (Some(key), None) => key.digest(),
        (None, Some(digest)) => {
            let digest: Result<Digest, _> = digest.parse();
            digest.map_err(|_| "digest: 64 hexadecimal digits")?
        }
        (Some(_), Some(_)) => return Err("a `key` and a `digest`: give one of them".into()),
        (None, None) => return Err("neither a `key` nor a `digest`".into()),
    };
    let client = own.or_else(|| client.map(str::to_owned)).ok_or("no `client`, and --client names none")?;
    let expires_at = expires_at.map(|at| at.parse::<Timestamp>()).transpose();
    let expires_at = expires_at.map_err(|_| "expires_at: a time such as 2030-01-31T00:00:00Z")?;
    let not_before = not_before.map(|at| at.parse::<Timestamp>()).transpose();
    let not_before = not_before.map_err(|_| "not_before: a time such as 2030-01-31T00:00:00Z")?;
    if not_before.is_some_and(|at| at > Timestamp::now()) {
        // It would be accepted at once.
        return Err("not_before: what begins later cannot be imported; import it then".into());
    }
    Ok(ImportItem { digest, client, scopes: scopes.unwrap_or_default(), expires_at })
}

fn human(report: &Report) -> String {
    let Report { ring, dry_run, imported, present, refused } = report;
    let would = if *dry_run { "Would import" } else { "Imported" };
    let mut text = format!(
        "{would} {} into ring {ring}; {} there already.",
        counted(*imported, "key", "keys"),
        counted(*present, "was", "were")
    );
    if refused.is_empty() {
        return text;
    }
    let rows: Vec<_> = refused
        .iter()
        .take(SHOWN)
        .map(|refused| [refused.line.to_string(), refused.detail.clone()])
        .collect();
    text += &format!(
        "\n\n{} refused:\n\n{}",
        counted(refused.len(), "line was", "lines were"),
        table(["LINE", "WHY"], &rows)
    );
    if refused.len() > SHOWN {
        text += &format!("\n… and {} more; --output json has all", refused.len().saturating_sub(SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: impl Iterator<Item = io::Result<Read>>) -> Vec<Read> {
        lines.map(Result::unwrap).collect()
    }

    fn error(read: &Read) -> &str {
        read.1.as_ref().unwrap_err()
    }

    #[test]
    fn csv_and_json_say_the_same() {
        let digest = Digest::of(b"secret");
        let csv = format!(
            "client,KEY,digest,scopes,expires_at,note\nacme,secret,,a b,2090-01-01T00:00:00Z,x\n,,{digest},,,\n"
        );
        let json = format!(
            "{{\"client\":\"acme\",\"key\":\"secret\",\"scopes\":[\"a\",\"b\"],\"expires_at\":\"2090-01-01T00:00:00Z\"}}\n\n{{\"digest\":\"{digest}\"}}\n"
        );
        let csv = read(csv_lines(csv.as_bytes(), Some("default".into())));
        let json = read(json_lines(json.as_bytes(), Some("default".into())));
        let items = |lines: &[Read]| lines.iter().map(|line| line.1.clone().unwrap()).collect::<Vec<_>>();
        assert_eq!(items(&csv), items(&json));
        assert_eq!((csv[0].0, csv[1].0, json[1].0), (2, 3, 3));
        assert_eq!(items(&csv)[1].client, "default");
        assert_eq!(items(&csv)[0].digest, digest);
    }

    #[test]
    fn a_bad_line_is_told_without_its_secret() {
        let json = "{\"key\":\"hunter2\",\"client\":7}\nhunter2\n{\"client\":\"acme\"}\n{\"key\":\"a\",\"expires_at\":\"soon\",\"client\":\"acme\"}\n{\"key\":\"a\"}\n";
        let lines = read(json_lines(json.as_bytes(), None));
        assert_eq!(lines.len(), 5);
        assert!(lines.iter().all(|line| !error(line).contains("hunter2")));
        assert!(error(&lines[2]).starts_with("neither"));
        assert!(error(&lines[3]).starts_with("expires_at"));
        assert!(error(&lines[4]).starts_with("no `client`"));
        let both =
            format!("{{\"key\":\"j3\",\"digest\":\"{}\",\"client\":\"acme\"}}\n", Digest::of(b"other"));
        assert!(error(&read(json_lines(both.as_bytes(), None))[0]).contains("give one of them"));
        let csv = read(csv_lines(&b"a,b\nhunter2,x\n"[..], None));
        assert!(error(&csv[0]).contains("the first line names the columns"));
        let csv = read(csv_lines(&b"key,client\nhunter2,acme,x\n\"a\nb\",acme\n"[..], None));
        assert!(error(&csv[0]).starts_with("3 fields"));
        assert!(error(&csv[1]).starts_with("key: "));
    }

    #[test]
    fn an_export_is_read_as_it_is() {
        let version = ExportedVersion {
            digest: Digest::of(b"1"),
            client: "acme".into(),
            scopes: vec!["a".into(), "b".into()],
            expires_at: Some("2090-01-01T00:00:00Z".parse().unwrap()),
            not_before: None,
            key: "key_1".into(),
            version: "kv_1".into(),
            state: keywheel_api::State::Active,
        };
        let item = |bytes: &[u8], format| match format {
            Format::Csv => read(csv_lines(bytes, None)).remove(0).1.unwrap(),
            Format::Jsonl => read(json_lines(bytes, None)).remove(0).1.unwrap(),
        };
        for format in [Format::Csv, Format::Jsonl] {
            let mut out = Vec::new();
            write(std::slice::from_ref(&version), format, &mut out).unwrap();
            let read = item(&out, format);
            assert_eq!(
                (read.digest, &read.client, &read.scopes),
                (version.digest, &version.client, &version.scopes)
            );
            assert_eq!(read.expires_at, version.expires_at);
        }
    }
}
