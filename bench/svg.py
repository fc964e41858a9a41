"""Line plots as SVG, drawn by hand: axes with units, logarithmic scales, a legend at the right."""
import html
import math

COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf", "#bcbd22",
           "#e377c2", "#7f7f7f")
WIDTH, HEIGHT = 800, 420
LEFT, RIGHT, TOP, BOTTOM = 76, 222, 44, 58


class Scale:
    """From values to pixels, linear or logarithmic."""

    def __init__(self, values, pixels, logarithmic, ticks=None):
        low, high = min(values), max(values)
        self.logarithmic = logarithmic
        if logarithmic:
            span = math.log10(high) - math.log10(low) or 1
            low, high = low / 10 ** (span * 0.03), high * 10 ** (span * 0.03)
        else:
            low, high = min(low, 0), (high or 1) * 1.05
        self.low, self.high, self.pixels = self._of(low), self._of(high), pixels
        wanted = ticks if ticks is not None else self._ticks(low, high)
        self.ticks = [t for t in wanted if low <= t <= high]

    def _of(self, value):
        return math.log10(value) if self.logarithmic else value

    def __call__(self, value):
        part = (self._of(value) - self.low) / (self.high - self.low)
        return self.pixels[0] + part * (self.pixels[1] - self.pixels[0])

    def _ticks(self, low, high):
        if self.logarithmic:
            first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
            factors = (1,) if last - first > 3 else (1, 2, 5)
            return [f * 10.0 ** e for e in range(first, last + 1) for f in factors]
        step = 10.0 ** math.floor(math.log10(high - low))
        if (high - low) / step < 4:
            step /= 2 if (high - low) / step > 2 else 5
        return [step * i for i in range(int(high / step) + 1)]


def text(x, y, words, anchor="middle", extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>'
            f"{html.escape(words)}</text>")


def axes(x, y, x_label, y_label, x_text, y_text):
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in x.ticks:
        yield f'<path class="grid" d="M{x(tick):.1f} {TOP}V{bottom}"/>'
        yield text(x(tick), bottom + 18, x_text(tick))
    for tick in y.ticks:
        yield f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{right}"/>'
        yield text(LEFT - 8, y(tick) + 4, y_text(tick), "end")
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    yield text((LEFT + right) / 2, HEIGHT - 14, x_label)
    middle = (TOP + bottom) / 2
    yield text(18, middle, y_label, extra=f'transform="rotate(-90 18 {middle:.0f})"')


def line(number, name, points, x, y, dashed):
    colour = COLOURS[number % len(COLOURS)]
    places = [(x(a), y(b)) for a, b in points]
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    yield f'<path fill="none" stroke="{colour}" stroke-width="2"{dash} d="M{path}"/>'
    for a, b in places if not dashed else ():
        yield f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>'
    at, right = TOP + 10 + 20 * number, WIDTH - RIGHT + 14
    yield (f'<path stroke="{colour}" stroke-width="2"{dash} '
           f'd="M{right} {at}H{right + 24}"/>')
    yield text(right + 30, at + 4, name, "start")


def line_plot(title, x_label, y_label, series, x_text=str, y_text=str, log_x=True, log_y=True,
              x_ticks=None):
    """series: [(name, [(x, y)...], dashed)]; dashed ones are floors and models. The x_text and
    y_text write a tick."""
    series = [s for s in series if s[1]]
    if not series:
        return None
    x = Scale([a for s in series for a, _ in s[1]], (LEFT, WIDTH - RIGHT), log_x, x_ticks)
    y = Scale([b for s in series for _, b in s[1]], (HEIGHT - BOTTOM, TOP), log_y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        "<style>.grid{stroke:#ddd;fill:none}.axis{stroke:#333;fill:none}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        text(LEFT, 24, title, "start", 'font-size="15" font-weight="bold"'),
        *axes(x, y, x_label, y_label, x_text, y_text),
    ]
    for number, (name, points, dashed) in enumerate(series):
        parts += line(number, name, points, x, y, dashed)
    return "\n".join(parts) + "\n</svg>\n"
