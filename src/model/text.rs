//! Words for messages.

/// The known word that is most like one that is not known, if any is like it at all.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Less is no near miss: colour is no cluster (0.75).
    const ALIKE: f64 = 0.8;
    let alike = known.map(|known| (strsim::jaro(word, known), known)).filter(|(alike, _)| *alike > ALIKE);
    alike.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, known)| known)
}

/// `1 image`, `2 images`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_is_most_alike_or_none() {
        let known = || ["pool", "pools", "plugins"].into_iter();
        assert_eq!(nearest("poool", known()), Some("pool"));
        assert_eq!(nearest("polls", known()), Some("pools"));
        assert_eq!(nearest("zzz", known()), None);
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(
            [count(0, "image"), count(1, "image"), count(2, "image")],
            ["0 images", "1 image", "2 images"]
        );
    }
}
