//! Tables of the configuration that are read key by key, so that each mistake is named with its line, its column and
//! what was probably meant. A kind of source asks for the keys that it knows; what nobody asked for is unknown.

use std::fmt::Display;
use std::ops::Range;

use anyhow::{anyhow, bail};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Entries of the longest list.
const LIST_MAX: usize = 10_000;

/// A table of which keys are asked for one after the other.
#[derive(Debug)]
pub struct Table<'a> {
    text: &'a str,
    /// Where it begins.
    span: Range<usize>,
    table: &'a DeTable<'a>,
    asked: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// The tables of `[[key]]` in a document.
    pub fn all_of(text: &'a str, document: &'a DeTable<'a>, key: &'static str) -> anyhow::Result<Vec<Self>> {
        Table { text, span: 0..0, table: document, asked: Vec::new() }.tables(key)
    }

    /// The table `[key]` of a document, if there is one.
    pub fn one_of(
        text: &'a str,
        document: &'a DeTable<'a>,
        key: &'static str,
    ) -> anyhow::Result<Option<Self>> {
        let mut root = Table { text, span: 0..0, table: document, asked: Vec::new() };
        let Some(value) = root.entry(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Table(table) => Ok(Some(Table { text, span: value.span(), table, asked: Vec::new() })),
            _ => bail!(root.error_at(key, format!("{key}: expected a table, found {}", what(value)))),
        }
    }

    fn entry(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.push(key);
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// Where the value of a key is, or the table where it is not.
    fn place(&self, key: &str) -> Range<usize> {
        let entry = self.table.iter().find(|(name, _)| name.get_ref() == key);
        entry.map_or(self.span.clone(), |(_, value)| value.span())
    }

    /// An error at the value of a key; where there is none, at the table.
    pub fn error_at(&self, key: &str, why: impl Display) -> anyhow::Error {
        error_at(self.text, self.place(key).start, why)
    }

    /// Whether a key is given.
    pub fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref() == key)
    }

    /// A text, parsed.
    pub fn parsed<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> anyhow::Result<Option<T>> {
        let Some(value) = self.entry(key) else { return Ok(None) };
        self.parse_one(key, value, &parse).map(Some)
    }

    /// A text that must be there, parsed.
    pub fn required<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> anyhow::Result<T> {
        self.parsed(key, parse)?.ok_or_else(|| self.error_at(key, format!("{key} is missing here")))
    }

    /// A list of texts, each parsed; none if the key is not given. One text alone is a list of one.
    pub fn list<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> anyhow::Result<Option<Vec<T>>> {
        let Some(value) = self.entry(key) else { return Ok(None) };
        let DeValue::Array(array) = value.get_ref() else {
            return Ok(Some(vec![self.parse_one(key, value, &parse)?]));
        };
        if array.len() > LIST_MAX {
            bail!(self.error_at(key, format!("{key} has {} entries, the limit is {LIST_MAX}", array.len())));
        }
        array.iter().map(|value| self.parse_one(key, value, &parse)).collect::<Result<_, _>>().map(Some)
    }

    fn parse_one<T, E: Display>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        parse: &impl Fn(&str) -> Result<T, E>,
    ) -> anyhow::Result<T> {
        let at = value.span().start;
        let Some(text) = value.get_ref().as_str() else {
            bail!(error_at(
                self.text,
                at,
                format!("{key}: expected a text in quotes, found {}", what(value))
            ));
        };
        parse(text).map_err(|why| error_at(self.text, at, format!("{key}: {why}")))
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str, default: bool) -> anyhow::Result<bool> {
        match self.entry(key).map(|value| (value, value.get_ref())) {
            None => Ok(default),
            Some((_, DeValue::Boolean(flag))) => Ok(*flag),
            Some((value, _)) => {
                bail!(self.error_at(key, format!("{key}: expected true or false, found {}", what(value))))
            }
        }
    }

    /// A whole number within bounds.
    pub fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> anyhow::Result<Option<u64>> {
        let Some(value) = self.entry(key) else { return Ok(None) };
        let number = value.get_ref().as_integer().filter(|number| number.radix() == 10);
        let number = number.and_then(|number| number.as_str().replace('_', "").parse().ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => bail!(self.error_at(
                key,
                format!(
                    "{key}: expected a number from {} to {}, found {}",
                    range.start(),
                    range.end(),
                    what(value)
                )
            )),
        }
    }

    /// A table of texts by name, each parsed by both: `key = { name = "text", … }`.
    pub fn pairs<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str, &str) -> Result<T, E>,
    ) -> anyhow::Result<Vec<T>> {
        let Some(value) = self.entry(key) else { return Ok(Vec::new()) };
        let DeValue::Table(table) = value.get_ref() else {
            bail!(
                self.error_at(
                    key,
                    format!("{key}: expected a table of names and texts, found {}", what(value))
                )
            );
        };
        if table.len() > LIST_MAX {
            bail!(self.error_at(key, format!("{key} has {} entries, the limit is {LIST_MAX}", table.len())));
        }
        let pair = |(name, value): (&Spanned<_>, _)| {
            let name: &str = std::borrow::Cow::as_ref(name.get_ref());
            self.parse_one(key, value, &|text: &str| parse(name, text))
        };
        table.iter().map(pair).collect()
    }

    /// Tables below a key.
    pub fn tables(&mut self, key: &'static str) -> anyhow::Result<Vec<Self>> {
        let Some(value) = self.entry(key) else { return Ok(Vec::new()) };
        let DeValue::Array(array) = value.get_ref() else {
            bail!(self.error_at(key, format!("{key}: expected a list of tables, found {}", what(value))));
        };
        let table = |value: &'a Spanned<DeValue<'a>>| match value.get_ref() {
            DeValue::Table(table) => {
                Ok(Table { text: self.text, span: value.span(), table, asked: Vec::new() })
            }
            _ => Err(error_at(
                self.text,
                value.span().start,
                format!("{key}: expected a table, found {}", what(value)),
            )),
        };
        array.iter().map(table).collect()
    }

    /// Refuses the first key that nobody asked for. `of` says what the table is.
    pub fn finish(self, of: &str) -> anyhow::Result<()> {
        let mut keys: Vec<_> = self.table.keys().collect();
        keys.sort_by_key(|key| key.span().start);
        let Some(unknown) = keys.into_iter().find(|key| !self.asked.contains(&key.get_ref().as_ref())) else {
            return Ok(());
        };
        let name = unknown.get_ref();
        let why = match nearest(name, self.asked.iter().copied()) {
            Some(near) => format!("{of} has no key `{name}`; `{near}` is probably meant"),
            None => format!("{of} has no key `{name}`; it has {}", self.asked.join(", ")),
        };
        Err(error_at(self.text, unknown.span().start, why))
    }
}

/// What a value is, for a message.
fn what(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::String(text) => format!("{text:?}"),
        other => format!("a value of type {}", other.type_str()),
    }
}

/// An error that names line and column, counted from 1; columns in characters.
pub fn error_at(text: &str, at: usize, why: impl Display) -> anyhow::Error {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    anyhow!("line {line}, column {column}: {why}")
}

/// The name that was probably meant: at most a third of its letters changed.
pub fn nearest<'n>(found: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let near = names.map(|name| (distance(found, name), name)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, name)| *distance * 3 <= name.chars().count().max(3)).map(|(_, name)| name)
}

/// Letters to be inserted, removed, changed or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let get = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX);
            let mut least =
                (get(&above, j) + usize::from(x != y)).min(get(&above, j + 1) + 1).min(get(&row, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                least = least.min(get(&before, j - 1) + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_probably_meant() {
        let names = ["providers", "platforms", "newest", "every", "cron", "ca_file"];
        for (found, near) in [
            ("provders", Some("providers")),
            ("platform", Some("platforms")),
            ("nwest", Some("newest")),
            ("eveyr", Some("every")),
            ("cafile", Some("ca_file")),
            ("images", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, names.into_iter()), near, "{found}");
        }
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn mistakes_have_a_place() {
        let text = "[[t]]\n'ä' = 'x'\nnmae = 'a'\n  count = 'many'\nflag = 1\nlist = ['a', 3]\n";
        let document = DeTable::parse(text).unwrap();
        let mut table = Table::all_of(text, document.get_ref(), "t").unwrap().pop().unwrap();
        let any = |text: &str| Ok::<_, String>(text.to_owned());
        assert_eq!(
            table.number("count", 1..=9).unwrap_err().to_string(),
            "line 4, column 11: count: expected a number from 1 to 9, found \"many\""
        );
        assert_eq!(
            table.flag("flag", true).unwrap_err().to_string(),
            "line 5, column 8: flag: expected true or false, found 1"
        );
        assert_eq!(
            table.list("list", any).unwrap_err().to_string(),
            "line 6, column 14: list: expected a text in quotes, found 3"
        );
        assert_eq!(
            table.parsed("ä", |_| Err::<(), _>("no")).unwrap_err().to_string(),
            "line 2, column 7: ä: no"
        );
        assert!(table.required("name", any).unwrap_err().to_string().contains("name is missing here"));
        assert_eq!(
            table.finish("a thing").unwrap_err().to_string(),
            "line 3, column 1: a thing has no key `nmae`; `name` is probably meant"
        );
    }
}
