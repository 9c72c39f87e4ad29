//! A pose as the grey drawing that the try-on network is shown: limbs darker than joints, hands and face on top.

use kraftr_imaging::GrayImage;

use super::pose::{BODY, Keypoint, Pose};
use super::raster;

/// Joints that are connected, in `OpenPose`'s order, from dark to bright.
const LIMBS: [(usize, usize); 17] = [
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
];
/// Half the width of a limb.
const LIMB: i64 = 4;
/// Radius of a joint, of the body or of a hand.
const JOINT: i64 = 4;
/// Radius of a point of the face.
const FACE: i64 = 3;
const HAND_GREY: u8 = 240;
const FACE_GREY: u8 = 200;

/// Draws people on black, `width` times `height` pixels; nobody is a black picture.
pub(crate) fn draw(people: &[Pose], width: u32, height: u32) -> GrayImage {
    let mut canvas = GrayImage::new(width, height);
    // Positions are cut to whole pixels, towards zero.
    let pixel = |at: [f64; 2]| ((at[0] * f64::from(width)) as i64, (at[1] * f64::from(height)) as i64);
    for (limb, (a, b)) in LIMBS.iter().enumerate() {
        for person in people {
            let (a, b) = (person.body[*a], person.body[*b]);
            if a.seen && b.seen {
                draw_limb(&mut canvas, pixel(a.at), pixel(b.at), limb_grey(limb));
            }
        }
    }
    for grey in canvas.iter_mut() {
        *grey = (f64::from(*grey) * 0.6) as u8;
    }
    for joint in 0..BODY {
        for keypoint in people.iter().map(|person| person.body[joint]).filter(|keypoint| keypoint.seen) {
            raster::disc(&mut canvas, pixel(keypoint.at), JOINT, joint_grey(joint));
        }
    }
    // On the picture's first row and column a point of hand or face counts as not seen.
    let inside = |keypoint: &Keypoint| {
        let (x, y) = pixel(keypoint.at);
        (keypoint.seen && x > 0 && y > 0).then_some((x, y))
    };
    for hand in people.iter().flat_map(|person| &person.hands) {
        for (bone, (a, b)) in bones().enumerate() {
            if let (Some(a), Some(b)) = (inside(&hand[a]), inside(&hand[b])) {
                raster::thick_line(&mut canvas, a, b, bone_grey(bone));
            }
        }
        for at in hand.iter().filter_map(inside) {
            raster::disc(&mut canvas, at, JOINT, HAND_GREY);
        }
    }
    for at in people.iter().flat_map(|person| &person.face).filter_map(inside) {
        raster::disc(&mut canvas, at, FACE, FACE_GREY);
    }
    canvas
}

fn draw_limb(canvas: &mut GrayImage, a: (i64, i64), b: (i64, i64), grey: u8) {
    // Halves are rounded down, also left of and above the picture.
    let middle = ((a.0 + b.0).div_euclid(2), (a.1 + b.1).div_euclid(2));
    let (dx, dy) = ((a.0 - b.0) as f64, (a.1 - b.1) as f64);
    let half = dx.hypot(dy) as i64 / 2;
    raster::ellipse(canvas, middle, (half, LIMB), dy.atan2(dx).to_degrees() as i64, grey);
}

/// 20 to 240 in as many steps as there are joints.
fn limb_grey(limb: usize) -> u8 {
    (20.0 + limb as f64 * (220.0 / 17.0)) as u8
}

/// A joint is brighter than the first of its limbs.
fn joint_grey(joint: usize) -> u8 {
    let limb = LIMBS.iter().position(|(a, b)| *a == joint || *b == joint);
    let limb = limb.expect("every joint is the end of a limb");
    (f64::from(limb_grey(limb)) * 1.3).min(255.0) as u8
}

/// The bones of a hand: from the wrist along every finger.
fn bones() -> impl Iterator<Item = (usize, usize)> {
    (0..5)
        .flat_map(|finger| (1..=4).map(move |n| 4 * finger + n))
        .map(|to| (if to % 4 == 1 { 0 } else { to - 1 }, to))
}

/// 160 to 220.
fn bone_grey(bone: usize) -> u8 {
    (160.0 + bone as f64 * (60.0 / 19.0)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_black() {
        assert!(draw(&[], 30, 40).iter().all(|grey| *grey == 0));
        assert!(draw(&[Pose::nobody()], 30, 40).iter().all(|grey| *grey == 0));
    }

    #[test]
    fn greys_are_those_of_the_reference() {
        let limbs: Vec<u8> = (0..17).map(limb_grey).collect();
        assert_eq!(limbs, [20, 32, 45, 58, 71, 84, 97, 110, 123, 136, 149, 162, 175, 188, 201, 214, 227]);
        assert_eq!([0, 1, 2, 17].map(joint_grey), [227, 26, 26, 255]);
        assert_eq!([0, 1, 19].map(bone_grey), [160, 163, 220]);
        let bones: Vec<_> = bones().collect();
        assert_eq!(bones[..5], [(0, 1), (1, 2), (2, 3), (3, 4), (0, 5)]);
        assert_eq!(bones.len(), 20);
    }

    #[test]
    fn people_beyond_the_edges_are_drawn_as_far_as_they_are_seen() {
        let mut pose = Pose::nobody();
        for (n, keypoint) in pose.body.iter_mut().enumerate() {
            *keypoint = Keypoint { at: [n as f64 / 8.0 - 0.5, 2.0 - n as f64 / 6.0], seen: true };
        }
        let drawing = draw(&[pose], 64, 48);
        assert!(drawing.iter().any(|grey| *grey > 0));
    }
}
