"""A robot arm that carries an object, ray-cast: a stand-in for MPI3D where that cannot be downloaded.

It has the seven factors of MPI3D-complex (Sec. 6.1) with the same numbers of values, but it is another,
easier set: no number made on it can be set beside one made on MPI3D. Shape, size, camera and the two axes of
the arm change the geometry, in 38,400 views; the two colors only change the palette. A view is one byte a
pixel: which material, and how bright. The 460,800 images follow from views and palettes when a batch is made.

Vectors are tuples (x, y, z) of numbers or arrays: x to the right, y away from the camera, z up from the
floor. Only +, -, *, / and sqrt act on float32, and sines are rounded, so that the views do not depend on the
machine.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

FACTORS = {
    "object color": 4,
    "object shape": 4,
    "object size": 2,
    "camera height": 3,
    "background color": 3,
    "horizontal axis": 40,
    "vertical axis": 40,
}  # slowest first, as in MPI3D-complex
SIDE = 64
VIEWS = (4, 2, 3, 40, 40)  # shape (sphere, cube, cylinder, cone), size, camera, both axes

HORIZONTAL = np.radians(np.linspace(-75, 75, 40))  # of the arm, about the pedestal
VERTICAL = np.radians(np.linspace(-5, 80, 40))  # above the floor's plane
RADII = (0.2, 0.32)
CAMERAS = ((0.0, -3.3, 2.4), (0.0, -3.6, 1.3), (0.0, -3.6, 0.45))  # top, middle, low
TARGET, FIELD = (0.0, 0.0, 0.62), 0.52  # where the cameras point; tangent of half the angle of view
PIVOT, ARM, ARM_RADIUS, GRIP = (0.0, 0.0, 0.45), 1.0, 0.06, 0.12  # GRIP: from the arm's end to the object
LIGHT = (-0.45, -0.6, 0.66)  # direction towards it
FLOOR = 2.2  # radius of the lit disc the pedestal stands on

OBJECT, METAL, SCENE = (0, 96), (96, 64), (160, 96)  # first byte of a material, and its steps of brightness
OBJECT_COLORS = ((235, 205, 60), (60, 170, 80), (140, 130, 60), (210, 55, 55))  # yellow, green, olive, red
BACKGROUND_COLORS = ((125, 70, 150), (60, 150, 130), (235, 140, 115))  # purple, sea green, salmon
METAL_COLOR = (190, 190, 190)
MISS = np.float32(1e9)  # distance of what a ray does not meet


def dot(a: tuple, b: tuple):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def minus(a: tuple, b: tuple) -> tuple:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def cross(a: tuple, b: tuple) -> tuple:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def unit(a: tuple) -> tuple:
    length = np.sqrt(dot(a, a))
    return a[0] / length, a[1] / length, a[2] / length


def turned(a: tuple, cos: float, sin: float) -> tuple:
    """`a` in a frame that is turned about the vertical."""
    return cos * a[0] + sin * a[1], cos * a[1] - sin * a[0], a[2]


def rounded(values: np.ndarray) -> np.ndarray:
    """Sines and cosines without their last digits, which differ between mathematical libraries."""
    return np.round(values, 7).astype(np.float32)


def nonzero(values):
    return np.where(np.abs(values) < 1e-6, np.float32(1e-6), values)


def camera_rays(eye: tuple) -> tuple:
    """Directions of the rays through the pixel centres, row by row from the top: unit vectors of (4096,)."""
    forward = unit(minus(TARGET, eye))
    right = unit(cross(forward, (0.0, 0.0, 1.0)))
    up = cross(right, forward)
    across = ((np.arange(SIDE) + 0.5) / (SIDE / 2) - 1) * FIELD
    x, y = np.tile(across, SIDE), -np.repeat(across, SIDE)
    ray = unit(tuple(forward[i] + x * right[i] + y * up[i] for i in range(3)))
    return tuple(part.astype(np.float32) for part in ray)


def roots(a, b, c) -> tuple:
    """Both t with a t^2 + 2 b t + c = 0; MISS where there are none."""
    inside = b * b - a * c
    root, a = np.sqrt(np.maximum(inside, 0)), nonzero(a)
    return np.where(inside > 0, (-b - root) / a, MISS), np.where(inside > 0, (-b + root) / a, MISS)


def slab(origin, ray, half) -> tuple:
    """Where a ray enters and leaves the space between -half and half."""
    one, other = (-half - origin) / nonzero(ray), (half - origin) / nonzero(ray)
    return np.minimum(one, other), np.maximum(one, other)


# The four objects: the distance t at which a ray from `origin` meets the object, MISS if it does not, and the
# brightness there, the cosine between the surface's normal and the light. The object's centre is (0, 0, 0).


def sphere(radius: float, origin: tuple, ray: tuple, light: tuple) -> tuple:
    t, _ = roots(1.0, dot(origin, ray), dot(origin, origin) - radius * radius)
    return t, (dot(origin, light) + t * dot(ray, light)) / radius


def cube(radius: float, origin: tuple, ray: tuple, light: tuple) -> tuple:
    sides = [slab(origin[i], ray[i], 0.8 * radius) for i in range(3)]
    t = np.maximum(np.maximum(sides[0][0], sides[1][0]), sides[2][0])
    out = np.minimum(np.minimum(sides[0][1], sides[1][1]), sides[2][1])
    lit = [-np.sign(ray[i]) * light[i] for i in range(3)]
    return (
        np.where(t < out, t, MISS),
        np.where(t == sides[0][0], lit[0], np.where(t == sides[1][0], lit[1], lit[2])),
    )


def cylinder(radius: float, origin: tuple, ray: tuple, light: tuple) -> tuple:
    (ox, oy, oz), (dx, dy, dz), (lx, ly, lz), wide = origin, ray, light, 0.75 * radius
    near, far = roots(dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy - wide * wide)
    bottom, top = slab(oz, dz, 0.8 * radius)
    t = np.maximum(near, bottom)
    mantle = ((ox + t * dx) * lx + (oy + t * dy) * ly) / wide
    return (np.where(t < np.minimum(far, top), t, MISS), np.where(near > bottom, mantle, -np.sign(dz) * lz))


def cone(radius: float, origin: tuple, ray: tuple, light: tuple) -> tuple:
    (ox, oy, oz), (dx, dy, dz), lz = origin, ray, light[2]
    below, slope = oz - radius, 0.55**2  # the apex is at height `radius`, the base at -0.8 of it
    crossings = roots(
        dx * dx + dy * dy - slope * dz * dz,
        ox * dx + oy * dy - slope * below * dz,
        ox * ox + oy * oy - slope * below * below,
    )
    best, lit = np.full(np.shape(crossings[0]), MISS), np.zeros(np.shape(crossings[0]), np.float32)
    for t in crossings:
        z = oz + t * dz
        normal = ox + t * dx, oy + t * dy, slope * (radius - z)
        met = (z < radius) & (z > -0.8 * radius) & (t > 0) & (t < best)
        lit = np.where(met, dot(normal, light) / np.sqrt(dot(normal, normal) + 1e-9), lit)
        best = np.where(met, t, best)
    t = (-0.8 * radius - oz) / nonzero(dz)
    met = ((ox + t * dx) ** 2 + (oy + t * dy) ** 2 < slope * (1.8 * radius) ** 2) & (t > 0) & (t < best)
    return np.where(met, t, best), np.where(met, -lz, lit)


OBJECTS = (sphere, cube, cylinder, cone)


def rod(end: tuple, origin: tuple, ray: tuple) -> tuple:
    """Distance and brightness, as of an object, of the arm from (0, 0, 0) along the unit vector `end`."""
    along, start = dot(end, ray), dot(end, origin)
    t, _ = roots(
        1 - along * along,
        dot(origin, ray) - start * along,
        dot(origin, origin) - start * start - ARM_RADIUS**2,
    )
    where = start + t * along
    lit = (dot(origin, LIGHT) + t * dot(ray, LIGHT) - where * dot(end, LIGHT)) / ARM_RADIUS
    return np.where((where > 0) & (where < ARM), t, MISS), lit


def nearer(one: tuple, other: tuple) -> tuple:
    """Of two things that rays may meet, each a distance and a brightness, the one in front."""
    return np.minimum(one[0], other[0]), np.where(one[0] < other[0], one[1], other[1])


def shade(material: tuple, brightness) -> np.ndarray:
    """The byte of a material at a brightness, 0 to 1."""
    first, steps = material
    return (first + np.clip(brightness, 0, 0.999) * steps).astype(np.uint8)


def background(eye: tuple, ray: tuple) -> tuple:
    """Where the rays meet the floor, x and y, whether on its disc, and the brightness of floor and wall."""
    down = ray[2] < -1e-4
    t = np.where(down, -eye[2] / np.where(down, ray[2], -1), MISS)
    x, y = eye[0] + t * ray[0], eye[1] + t * ray[1]
    distance = np.sqrt(x * x + y * y)
    disc = distance < FLOOR
    return x, y, disc, np.where(disc, 0.95 - 0.18 * distance, 0.3 + 0.3 * np.abs(ray[2]))


def draw_views(views: np.ndarray, camera: int, horizontal: int) -> None:
    """Draw into `views` (VIEWS..., 4096) what one camera sees at one position of the horizontal axis."""
    eye = CAMERAS[camera]
    ray = camera_rays(eye)
    x, y, disc, bright = background(eye, ray)
    still = nearer(
        cylinder(0.22, minus(eye, (0.0, 0.0, PIVOT[2] / 2)), ray, LIGHT),  # pedestal and joint
        sphere(0.09, minus(eye, PIVOT), ray, LIGHT),
    )
    cos, sin = rounded(np.cos(HORIZONTAL))[horizontal], rounded(np.sin(HORIZONTAL))[horizontal]
    reach, rise = rounded(np.cos(VERTICAL))[:, None], rounded(np.sin(VERTICAL))[:, None]  # (40, 1)
    # Its depth is flattened: an arm that points at the camera would look the same at all heights.
    end = unit((reach * sin, -0.6 * reach * cos, rise))
    metal = nearer(rod(end, minus(eye, PIVOT), ray), still)  # (40, 4096) each
    centre = tuple(PIVOT[i] + (ARM + GRIP) * end[i] for i in range(3))
    origin = turned(minus(eye, centre), cos, sin)
    ray, light = turned(ray, cos, sin), turned(LIGHT, cos, sin)
    shadow_x, shadow_y = (centre[i] - centre[2] * LIGHT[i] / LIGHT[2] for i in range(2))
    shadow = (x - shadow_x) ** 2 + (y - shadow_y) ** 2
    for size, radius in enumerate(RADII):
        scene = shade(SCENE, np.where((shadow < radius * radius) & disc, 0.55 * bright, bright))
        scene = np.where(metal[0] < MISS, shade(METAL, 0.25 + 0.7 * np.maximum(metal[1], 0)), scene)
        for shape, meet in enumerate(OBJECTS):
            t, lit = meet(radius, origin, ray, light)
            views[shape, size, camera, horizontal] = np.where(
                t < metal[0], shade(OBJECT, 0.3 + 0.7 * np.maximum(lit, 0)), scene
            )


def views() -> np.ndarray:
    """All views, one byte a pixel: (38400, 4096) uint8, in the order of VIEWS; a few seconds, 160 MB."""
    result = np.empty((*VIEWS, SIDE * SIDE), np.uint8)
    places = [(camera, horizontal) for camera in range(VIEWS[2]) for horizontal in range(VIEWS[3])]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda place: draw_views(result, *place), places))
    return result.reshape(-1, SIDE * SIDE)


def palettes() -> np.ndarray:
    """The color of each byte: (12, 256, 3) uint8, a palette for each object color (slower) and background."""
    result = np.empty((len(OBJECT_COLORS), len(BACKGROUND_COLORS), 256, 3), np.uint8)
    for i, color in enumerate(OBJECT_COLORS):
        for j, behind in enumerate(BACKGROUND_COLORS):
            for (first, steps), full in ((OBJECT, color), (METAL, METAL_COLOR), (SCENE, behind)):
                ramp = np.arange(steps)[:, None] / (steps - 1)
                result[i, j, first : first + steps] = np.round(ramp * np.array(full))
    return result.reshape(-1, 256, 3)
