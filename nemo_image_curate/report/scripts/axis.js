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

  /** The x of a place, in units of the drawing. */
  xOf(place) {
    const bar = Math.min(Math.floor(place / this.perBar), this.bars - 1);
    const start = bar * this.perBar;
    const size = Math.min(this.perBar, this.counts.length - start);
    return this.barWidth * (bar + (place - start) / size);
  }

  /** The step whose beginning is nearest to a pointer. */
  stepAt(event) {
    const box = this.svg.getBoundingClientRect();
    const part = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const at = part * this.bars;
    const bar = Math.min(Math.floor(at), this.bars - 1);
    const start = bar * this.perBar;
    const size = Math.min(this.perBar, this.counts.length - start);
    return Math.round(start + (at - bar) * size);
  }

  /** How many pixels a pointer is from a place. */
  pixelsTo(place, event) {
    const box = this.svg.getBoundingClientRect();
    const x = box.left + (this.xOf(place) / (this.bars * this.barWidth)) * box.width;
    return Math.abs(event.clientX - x);
  }

  /** The rows of some steps. */
  rows(from, to) {
    return this.counts.slice(from, to).reduce((sum, count) => sum + count, 0);
  }
}
