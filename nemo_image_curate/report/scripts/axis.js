// Where values are among the steps of a threshold, and these on a histogram.

/**
 * Steps are the parts between edges, of which counts are exact; a bar is drawn of several. A place
 * is a step's number, with its fraction inside.
 */
class Axis {
  constructor(svg, edges, counts, barWidth = 10) {
    this.svg = svg;
    this.edges = edges;
    this.counts = counts;
    this.barWidth = barWidth;
    this.bars = svg.viewBox.baseVal.width / barWidth;
    this.perBar = Math.ceil(counts.length / this.bars);
  }

  /** Where a value is. */
  placeOf(value) {
    const { edges } = this;
    let step = edges.findIndex((edge) => edge > value) - 1;
    if (step < 0) step = value < edges[0] ? 0 : this.counts.length - 1;
    const inside = (value - edges[step]) / (edges[step + 1] - edges[step] || 1);
    return step + Math.min(1, Math.max(0, inside));
  }

  /** A bar's first step, and how many it has: the last bar may have fewer. */
  stepsOf(bar) {
    const start = bar * this.perBar;
    return [start, Math.min(this.perBar, this.counts.length - start)];
  }

  /** The x of a place, in bars. */
  xOf(place) {
    const bar = Math.min(Math.floor(place / this.perBar), this.bars - 1);
    const [start, size] = this.stepsOf(bar);
    return bar + (place - start) / size;
  }

  /** The step that begins nearest to an x. */
  stepAt(x) {
    const bar = Math.min(Math.floor(x), this.bars - 1);
    const [start, size] = this.stepsOf(bar);
    return Math.round(start + (x - bar) * size);
  }

  /** The x of a pointer, inside the drawing. */
  xOfPointer(event) {
    const box = this.svg.getBoundingClientRect();
    return this.bars * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  }

  /** How many pixels a pointer is from a place. */
  pixelsTo(place, event) {
    const bars = Math.abs(this.xOfPointer(event) - this.xOf(place));
    return (bars / this.bars) * this.svg.getBoundingClientRect().width;
  }

  /** The rows of some steps. */
  rows(from, to) {
    return this.counts.slice(from, to).reduce((sum, count) => sum + count, 0);
  }
}
