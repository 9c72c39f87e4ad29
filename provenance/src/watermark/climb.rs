//! Climbing to a peak of a function whose slope is not known.

/// The highest place near `start`, with its height: each of `directions` is stepped along, forward and back, as long as
/// that leads up, with one size of `steps` after another (the pattern search of Hooke and Jeeves, 1961).
///
/// `moved` gives the place that lies so far from another in a direction.
pub(crate) fn climbed<P: Copy>(
    start: P,
    steps: &[f64],
    directions: usize,
    moved: impl Fn(P, usize, f64) -> P,
    mut height: impl FnMut(P) -> f64,
) -> (P, f64) {
    let (mut place, mut best) = (start, height(start));
    for step in steps {
        let mut improved = true;
        while improved {
            improved = false;
            for direction in 0..directions {
                for length in [*step, -step] {
                    let other = moved(place, direction, length);
                    let found = height(other);
                    if found > best {
                        (place, best, improved) = (other, found, true);
                        break;
                    }
                }
            }
        }
    }
    (place, best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_of_a_slanted_hill_is_found_to_the_last_step() {
        let height = |[x, y]: [f64; 2]| -(x - 1.3).powi(2) - (x + y - 0.6).powi(2);
        let moved = |place: [f64; 2], direction: usize, length: f64| {
            let mut other = place;
            other[direction] += length;
            other
        };
        let (top, best) = climbed([0.0; 2], &[0.5, 0.25, 0.125, 0.0625], 2, moved, height);
        assert!((top[0] - 1.3).abs() < 0.13 && (top[1] + 0.7).abs() < 0.13, "{top:?}");
        assert!((best - height(top)).abs() < 1e-12);
        assert!(best > height([0.0; 2]));
    }
}
