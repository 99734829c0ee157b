//! Mutates input by small changes that mostly keep its shape.

use serde_json::{Value, json};

use super::Shape;

/// A pseudo-random generator with a reproducible seed.
pub(crate) struct Rng(fastrand::Rng);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Returns a number below `bound`, or 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.usize(..bound.max(1))
    }

    pub(crate) fn one_of<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// The maximum length of an input: longer inputs are slower and find no more.
const LONGEST: usize = 8 << 10;

/// Applies one to four changes to an input of `pool`.
pub(super) fn mutate(shape: Shape, pool: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = pool[rng.below(pool.len())].clone();
    for _ in 0..=rng.below(4) {
        let other = &pool[rng.below(pool.len())];
        input = match shape {
            Shape::Lines(line) if rng.below(10) > 0 => lines(&input, other, line, rng),
            Shape::Lines(_) => bytes(input, other, &[], rng),
            Shape::Json(words) => match serde_json::from_slice(&input) {
                Ok(value) if rng.below(10) > 1 => tree(value, other, words, rng),
                _ => bytes(input, other, words, rng),
            },
        };
    }
    input.truncate(LONGEST);
    input
}

/// Removes, repeats, swaps or generates lines, or inserts some of another input.
fn lines(input: &[u8], other: &[u8], new: fn(&mut Rng) -> String, rng: &mut Rng) -> Vec<u8> {
    let split = |input: &[u8]| -> Vec<String> { String::from_utf8_lossy(input).lines().map(str::to_owned).collect() };
    let mut lines = split(input);
    let at = rng.below(lines.len() + 1);
    match rng.below(8) {
        0 if !lines.is_empty() => drop(lines.remove(at % lines.len())),
        1 if !lines.is_empty() => {
            let (from, to) = (at % lines.len(), rng.below(lines.len()));
            lines.swap(from, to);
        }
        2 if !lines.is_empty() => {
            let line = lines[rng.below(lines.len())].clone();
            lines.insert(at, line);
        }
        3 => {
            let others = split(other);
            let from = rng.below(others.len() + 1);
            let taken = others.into_iter().skip(from).take(1 + rng.below(12));
            lines.splice(at..at, taken);
        }
        _ => lines
            .splice(at..at, (0..=rng.below(5)).map(|_| new(rng)).collect::<Vec<_>>())
            .for_each(drop),
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text.into_bytes()
}

/// Replaces or removes one value in a document.
fn tree(mut value: Value, other: &[u8], words: &[&str], rng: &mut Rng) -> Vec<u8> {
    let place = place_in(&mut value, rng);
    let word = rng.one_of(words).to_owned();
    match place {
        Value::Object(fields) if rng.below(3) == 0 => {
            let key = fields.keys().nth(rng.below(fields.len() + 1)).cloned();
            drop(key.and_then(|key| fields.remove(&key)));
        }
        Value::Object(fields) if rng.below(2) == 0 => drop(fields.insert(word, any_value(words, rng))),
        Value::Array(items) if rng.below(2) == 0 => {
            let twice = items.get(rng.below(items.len())).cloned();
            items.push(twice.unwrap_or_else(|| any_value(words, rng)));
        }
        Value::String(text) if rng.below(3) > 0 => {
            let at = text.floor_char_boundary(rng.below(text.len() + 1));
            match rng.below(3) {
                0 => text.truncate(at),
                1 => text.insert_str(at, &any_text(words, rng)),
                _ => text.insert_str(at, &word),
            }
        }
        place if rng.below(4) == 0 => {
            let other = serde_json::from_slice(other);
            *place = other.unwrap_or_else(|_| any_value(words, rng));
        }
        place => *place = any_value(words, rng),
    }
    value.to_string().into_bytes()
}

/// Returns a random place in a document, mostly a deep one: a change near the root usually makes the whole document
/// invalid.
fn place_in<'a>(value: &'a mut Value, rng: &mut Rng) -> &'a mut Value {
    let count = match value {
        Value::Object(fields) => fields.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    if count == 0 || rng.below(6) == 0 {
        return value;
    }
    let at = rng.below(count);
    let inner = match value {
        Value::Object(fields) => fields.values_mut().nth(at),
        Value::Array(items) => items.get_mut(at),
        _ => None,
    };
    place_in(inner.expect("it has so many"), rng)
}

fn any_value(words: &[&str], rng: &mut Rng) -> Value {
    match rng.below(8) {
        0 => Value::Null,
        1 => json!(rng.below(2) == 0),
        2 => json!([0_i64, 1, -1, 80, 65_535, 65_536, i64::MAX, i64::MIN][rng.below(8)]),
        3 => json!([0.5, -0.0, 1e300][rng.below(3)]),
        4 => json!([any_text(words, rng)]),
        5 => json!({rng.one_of(words): any_text(words, rng)}),
        _ => json!(any_text(words, rng)),
    }
}

fn any_text(words: &[&str], rng: &mut Rng) -> String {
    const ODD: [&str; 12] = [
        "",
        "/",
        "//",
        "..",
        " ",
        "\u{0}",
        "\n",
        "\u{202e}",
        "ß",
        "\u{10ffff}",
        "%2f",
        "\"}",
    ];
    match rng.below(4) {
        0 => ODD[rng.below(ODD.len())].to_owned(),
        1 => rng.one_of(words).repeat(1 + rng.below(40)),
        _ => rng.one_of(words).to_owned(),
    }
}

/// Changes bytes regardless of the shape.
fn bytes(mut input: Vec<u8>, other: &[u8], words: &[&str], rng: &mut Rng) -> Vec<u8> {
    let from = rng.below(input.len() + 1);
    let to = (from + rng.below(16)).min(input.len());
    match rng.below(6) {
        0 => drop(input.drain(from..to)),
        1 => {
            let twice = input[from..to].to_vec();
            input.splice(from..from, twice);
        }
        2 if from < input.len() => input[from] ^= 1 << rng.below(8),
        3 if from < input.len() => input[from] = u8::try_from(rng.below(256)).expect("a byte"),
        4 if !words.is_empty() => drop(input.splice(from..to, rng.one_of(words).bytes())),
        _ => {
            let at = rng.below(other.len() + 1);
            let end = (at + rng.below(64)).min(other.len());
            input.splice(from..to, other[at..end].iter().copied());
        }
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_what_is_made_of_a_corpus() {
        let pool = [br#"{"a": [1, "b"], "c": {"d": null}}"#.to_vec(), b"{}".to_vec()];
        let made = |seed| -> Vec<Vec<u8>> {
            let mut rng = Rng::new(seed);
            (0..200)
                .map(|_| mutate(Shape::Json(&["a", "{{"]), &pool, &mut rng))
                .collect()
        };
        assert_eq!(made(7), made(7));
        assert_ne!(made(7), made(8));
        let valid = made(7)
            .iter()
            .filter(|input| serde_json::from_slice::<Value>(input).is_ok())
            .count();
        assert!((50..200).contains(&valid), "{valid} of 200 are still JSON");
    }
}
