//! Medians and spreads.

/// The middle value, or the mean of the two in the middle; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Half the distance from least to greatest, as a part of the median.
pub(crate) fn spread(values: &[f64]) -> f64 {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let middle = median(values);
    if middle == 0.0 { 0.0 } else { (greatest - least) / 2.0 / middle }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        let check = |values: &[f64], expected: (f64, f64)| {
            assert_eq!((median(values), spread(values)), expected, "{values:?}");
        };
        check(&[], (0.0, 0.0));
        check(&[4.0], (4.0, 0.0));
        check(&[3.0, 1.0], (2.0, 0.5));
        check(&[9.0, 4.0, 3.0], (4.0, 0.75));
    }
}
