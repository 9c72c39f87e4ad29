//! Filled shapes on 8-bit grey pictures, pixel for pixel as OpenCV draws them (`circle`, `line`, `fillConvexPoly`,
//! `ellipse2Poly`; lines without antialiasing).

use kraftr_imaging::GrayImage;

/// Fractional bits of a [`Fine`] coordinate.
const BITS: u32 = 16;
const ONE: i64 = 1 << BITS;

/// A point in whole pixels.
type Point = (i64, i64);
/// A point in 65,536ths of a pixel.
type Fine = (i64, i64);

/// Pixels `from..=to` of a row, as far as they lie in the picture.
fn span(canvas: &mut GrayImage, y: i64, from: i64, to: i64, grey: u8) {
    let (width, height) = (i64::from(canvas.width()), i64::from(canvas.height()));
    if !(0..height).contains(&y) || to < 0 || from >= width {
        return;
    }
    let row = (y * width) as usize;
    let bytes: &mut [u8] = canvas;
    bytes[row + from.max(0) as usize..=row + to.min(width - 1) as usize].fill(grey);
}

/// A disc.
pub(super) fn disc(canvas: &mut GrayImage, centre: Point, radius: i64, grey: u8) {
    let (mut across, mut along, mut error) = (radius, 0, 0);
    while across >= along {
        for (dy, reach) in [(along, across), (across, along)] {
            span(canvas, centre.1 - dy, centre.0 - reach, centre.0 + reach, grey);
            span(canvas, centre.1 + dy, centre.0 - reach, centre.0 + reach, grey);
        }
        error += 2 * along + 1;
        along += 1;
        if error > 0 {
            error -= 2 * across - 1;
            across -= 1;
        }
    }
}

/// A filled ellipse as a polygon with a corner at every degree; `angle` in whole degrees.
pub(super) fn ellipse(canvas: &mut GrayImage, centre: Point, axes: (i64, i64), angle: i64, grey: u8) {
    // Seven digits, as in OpenCV's table of sines.
    let sine = |degrees: i64| ((degrees as f64).to_radians().sin() * 1e7).round_ties_even() / 1e7;
    let sine = |degrees: i64| f64::from(sine(degrees.rem_euclid(360)) as f32);
    let (cos, sin) = (sine(angle + 90), sine(angle));
    let mut corners: Vec<Point> = Vec::with_capacity(361);
    for degrees in 0..=360 {
        let (x, y) = (axes.0 as f64 * sine(degrees + 90), axes.1 as f64 * sine(degrees));
        let corner = (
            (centre.0 as f64 + x * cos - y * sin).round_ties_even() as i64,
            (centre.1 as f64 + x * sin + y * cos).round_ties_even() as i64,
        );
        if corners.last() != Some(&corner) {
            corners.push(corner);
        }
    }
    for (n, corner) in corners.iter().enumerate() {
        stroke(canvas, corners[(n + corners.len() - 1) % corners.len()], *corner, grey);
    }
    let fine: Vec<Fine> = corners.iter().map(|(x, y)| (x << BITS, y << BITS)).collect();
    fill_between(canvas, &fine, |y| y >> BITS, grey);
}

/// A line of two pixels' width with round ends.
pub(super) fn thick_line(canvas: &mut GrayImage, from: Point, to: Point, grey: u8) {
    let (a, b) = ((from.0 << BITS, from.1 << BITS), (to.0 << BITS, to.1 << BITS));
    let (dx, dy) = ((from.0 - to.0) as f64, (to.1 - from.1) as f64);
    let length = dx.hypot(dy);
    if length > f64::EPSILON {
        let half = ONE as f64 / length;
        let (x, y) = ((dy * half).round_ties_even() as i64, (dx * half).round_ties_even() as i64);
        let corners = [(a.0 + x, a.1 + y), (a.0 - x, a.1 - y), (b.0 - x, b.1 - y), (b.0 + x, b.1 + y)];
        for (n, corner) in corners.iter().enumerate() {
            fine_stroke(canvas, corners[(n + 3) % 4], *corner, grey);
        }
        fill_between(canvas, &corners, |y| (y + ONE / 2) >> BITS, grey);
    }
    for end in [from, to] {
        disc(canvas, end, 1, grey);
    }
}

/// A line of one pixel between two pixels (Bresenham), drawn from left to right.
fn stroke(canvas: &mut GrayImage, from: Point, to: Point, grey: u8) {
    let (from, to) = if to.0 < from.0 { (to, from) } else { (from, to) };
    let (dx, dy) = (to.0 - from.0, (to.1 - from.1).abs());
    let down = (to.1 - from.1).signum();
    let (long, short) = (dx.max(dy), dx.min(dy));
    let (mut x, mut y) = from;
    let mut error = long - 2 * short;
    for _ in 0..=long {
        span(canvas, y, x, x, grey);
        let aside = error < 0;
        error += if aside { 2 * (long - short) } else { -2 * short };
        if dx >= dy {
            x += 1;
            y += if aside { down } else { 0 };
        } else {
            y += down;
            x += i64::from(aside);
        }
    }
}

/// The same between points inside pixels.
fn fine_stroke(canvas: &mut GrayImage, from: Fine, to: Fine, grey: u8) {
    let shallow = (to.0 - from.0).abs() > (to.1 - from.1).abs();
    // Along the longer axis, forwards.
    let turn = |(x, y): Fine| if shallow { (x, y) } else { (y, x) };
    let (mut a, mut b) = (turn(from), turn(to));
    if b.0 < a.0 {
        std::mem::swap(&mut a, &mut b);
    }
    let mut put = |(along, across): Fine| {
        let (x, y) = turn((along, across));
        span(canvas, y, x, x, grey);
    };
    let length = b.0 - a.0;
    let step = (b.1 - a.1) * ONE / (length | 1);
    put(((b.0 + ONE / 2) >> BITS, (b.1 + ONE / 2) >> BITS));
    let (first, mut across) = ((a.0 + ONE / 2) >> BITS, a.1 + ONE / 2);
    for along in first..=first + (length >> BITS) {
        put((along, across >> BITS));
        across += step;
    }
}

/// Fills a convex polygon row by row between its two sides; `row` says in which row a corner lies.
fn fill_between(canvas: &mut GrayImage, corners: &[Fine], row: impl Fn(i64) -> i64, grey: u8) {
    /// A way from the topmost corner down one side.
    struct Side {
        corner: usize,
        until: i64,
        x: i64,
        step: i64,
    }
    let count = corners.len();
    if count < 3 {
        return;
    }
    let topmost = (0..count).min_by_key(|n| corners[*n].1).expect("there are corners");
    let (top, bottom) =
        (row(corners[topmost].1), row(corners.iter().map(|(_, y)| *y).max().expect("there are corners")));
    let side = || Side { corner: topmost, until: top, x: -ONE, step: 0 };
    let mut sides = [(side(), 1), (side(), count - 1)];
    let mut edges = count;
    for y in top..=bottom.min(i64::from(canvas.height()) - 1) {
        for (side, direction) in &mut sides {
            while y >= side.until && edges > 0 {
                edges -= 1;
                let (from, to) = (side.corner, (side.corner + *direction) % count);
                side.corner = to;
                let end = row(corners[to].1);
                if end > y {
                    let rows = end - y;
                    side.x = corners[from].0;
                    side.step = ((corners[to].0 - side.x) * 2 + rows) / (2 * rows);
                    side.until = end;
                }
            }
        }
        let [left, right] = {
            let [a, b] = [sides[0].0.x, sides[1].0.x];
            [a.min(b), a.max(b)].map(|x| (x + ONE / 2) >> BITS)
        };
        span(canvas, y, left, right, grey);
        for (side, _) in &mut sides {
            side.x += side.step;
        }
    }
}
