//! Lists in messages.

use std::fmt::Display;

/// Lists `items`, such as "a, b and c" with the conjunction "and". Names the first `most` of them and counts the rest:
/// "a, b, c and 7 more".
pub fn listed(items: impl IntoIterator<Item = impl Display>, most: usize, conjunction: &str) -> String {
    let mut items = items.into_iter();
    let mut words: Vec<String> = items.by_ref().take(most).map(|item| item.to_string()).collect();
    if let more @ 1.. = items.count() {
        words.push(format!("{more} more"));
    }
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} {conjunction} {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn long_list_is_cut_and_the_rest_counted() {
        let words = |count: u8| listed((b'a'..).map(char::from).take(count.into()), 3, "or");
        assert_eq!(words(0), "");
        assert_eq!(words(1), "a");
        assert_eq!(words(2), "a or b");
        assert_eq!(words(3), "a, b or c");
        assert_eq!(words(4), "a, b, c or 1 more");
        assert_eq!(words(10), "a, b, c or 7 more");
    }
}
