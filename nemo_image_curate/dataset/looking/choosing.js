// What is chosen by hand, on pages and in notebooks: points within a loop, and calls of ds.filter to paste.

const MOST_KEYS = 900; // An expression has 1,000 parts at most.

/** A call of ds.filter for a condition; JSON's texts are Python's, too. */
const filterCall = (condition) => `ds.filter(${JSON.stringify(condition)})`;

/** A call of ds.filter for some keys: expressions have no control characters and an end, masks may. */
function callOf({ column, name }, keys) {
  const all = [...new Set(keys)];
  const quoted = (key) => (/^[^'"\\]*$/.test(key) ? `'${key}'` : JSON.stringify(key));
  const plain = `[${all.map((key) => JSON.stringify(key)).join(", ")}]`;
  // eslint-disable-next-line no-control-regex
  return all.length > MOST_KEYS || all.some((key) => /[\x00-\x1f\x7f]/.test(key))
    ? `ds.filter(ds.metadata[${JSON.stringify(column)}].isin(${plain}))`
    : filterCall(`${name}.isin([${all.map(quoted).join(", ")}])`);
}

/** Whether a point is inside a line that is closed: a ray from it crosses an odd number of times. */
function isInside([x, y], line) {
  let inside = false;
  line.forEach(([x1, y1], place) => {
    const [x2, y2] = line[(place + 1) % line.length];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
  });
  return inside;
}
