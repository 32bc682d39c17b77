//! The word that somebody may have meant.

/// The known word that is most like one that is not known, if any is like it at all.
pub fn of<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Less is no near miss: colour is no cluster (0.75).
    const ALIKE: f64 = 0.8;
    let alike = known.map(|known| (strsim::jaro(word, known), known)).filter(|(alike, _)| *alike > ALIKE);
    alike.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_alike_or_none() {
        let known = || ["pool", "pools", "plugins"].into_iter();
        assert_eq!(of("poool", known()), Some("pool"));
        assert_eq!(of("polls", known()), Some("pools"));
        assert_eq!(of("zzz", known()), None);
    }
}
