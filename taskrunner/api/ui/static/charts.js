// Draws the charts of the overview over the pictures that the page has brought, with values under the pointer.
"use strict";
(() => {
  const drawn = new Map();
  const HEIGHT = 190;
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (number) => token(number ? `--series-${number}` : "--strong-line");
  const digits = (value) => String(+value.toPrecision(3));
  const span = (value) => value == null ? "–" : value < 1 ? `${digits(value * 1000)} ms` : value < 120 ? `${digits(value)} s`
    : value < 7200 ? `${digits(value / 60)} min` : `${digits(value / 3600)} h`;
  const amount = (value) => value == null ? "–" : value.toLocaleString("en");

  const WHOLE = [...Array(12).keys()].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
  // Hours and minutes, the day where it begins; days alone where steps of the axis are as long.
  const clock = (_plot, ticks, _axis, _space, step) => ticks.map((tick, place) => {
    const at = new Date(tick * 1000).toISOString();
    const day = place === 0 || at.slice(0, 10) !== new Date(ticks[place - 1] * 1000).toISOString().slice(0, 10);
    return step >= 86400 ? at.slice(5, 10) : at.slice(11, 16) + (day ? `\n${at.slice(5, 10)}` : "");
  });

  // Of stacked series each is drawn from the ground up to the sum of all below it, the highest first.
  function columns(chart) {
    if (!chart.stacked) return [chart.x, ...chart.series.map((one) => one.values)];
    const sums = [];
    for (const one of chart.series) {
      const below = sums[sums.length - 1];
      sums.push(one.values.map((value, place) => (value || 0) + (below ? below[place] : 0)));
    }
    return [chart.x, ...sums.reverse()];
  }

  // `now.chart` is what is shown: it changes while the plot stays.
  function options(box, now) {
    const chart = now.chart;
    const say = chart.stacked ? amount : span;
    const line = { stroke: token("--line"), width: 1 };
    const axis = { stroke: token("--soft"), grid: line, ticks: line, font: "12px system-ui, sans-serif" };
    const top = chart.series.length - 1;
    const place = (number) => chart.stacked ? top - number : number;
    const bars = uPlot.paths.bars({ size: [1, 60], align: 1 });
    return {
      width: box.clientWidth, height: HEIGHT, tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      cursor: { drag: { x: true, y: false, setScale: false }, points: { show: false } },
      scales: {
        x: { range: () => [now.chart.x[0], now.chart.x[now.chart.x.length - 1] + chart.step] },
        y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] },
      },
      axes: [{ ...axis, values: clock, space: 64 }, { ...axis, size: 62, ...(chart.stacked ? { incrs: WHOLE } : {}), values: (_, ticks) => ticks.map((tick) => tick === 0 ? "0" : say(tick)) }],
      series: [
        { label: "UTC", value: (_, at) => at == null ? "–" : new Date(at * 1000).toISOString().slice(5, 16).replace("T", " ") },
        ...chart.series.map((_one, number) => chart.series[place(number)]).map((one, number) => ({
          label: one.label, stroke: colour(one.colour), width: chart.stacked ? 0 : 1.75, spanGaps: false,
          ...(chart.stacked ? { fill: colour(one.colour), paths: bars } : {}), points: { show: !chart.stacked && chart.x.length < 3 },
          value: (_plot, _value, _series, at) => say(at == null ? null : now.chart.series[place(number)].values[at]),
        })),
      ],
      hooks: {
        setSelect: [(plot) => {
          if (plot.select.width < 4) return;
          const at = (left) => new Date(plot.posToVal(left, "x") * 1000).toISOString().slice(0, 16);
          const query = new URLSearchParams(location.search);
          query.delete("range");
          query.set("since", at(plot.select.left));
          query.set("until", at(plot.select.left + plot.select.width));
          location.search = query;
        }],
      },
    };
  }

  function draw(box, anew) {
    const text = box.dataset.chart;
    const before = drawn.get(box);
    if (before && !anew && before.text === text) return;
    const chart = JSON.parse(text);
    const shape = JSON.stringify([chart.stacked, chart.step, chart.x.length, chart.series.map((one) => one.label)]);
    if (before && !anew && before.shape === shape) {
      before.text = text;
      before.now.chart = chart;
      before.plot.setData(columns(chart));
      return;
    }
    before?.plot.destroy();
    box.replaceChildren();
    const now = { chart };
    drawn.set(box, { text, shape, now, plot: new uPlot(options(box, now), columns(chart), box) });
  }

  function drawAll(anew = false) {
    for (const [box, one] of drawn) if (!box.isConnected) { one.plot.destroy(); drawn.delete(box); }
    for (const box of document.querySelectorAll("[data-chart]")) draw(box, anew);
  }

  document.addEventListener("DOMContentLoaded", () => {
    // What is drawn stays while the page takes over what has changed around it.
    Idiomorph.defaults.callbacks.beforeNodeMorphed = (old, fresh) => {
      if (!(old instanceof Element) || !old.matches("[data-chart]") || !fresh.dataset?.chart) return true;
      old.dataset.chart = fresh.dataset.chart;
      return false;
    };
    drawAll();
    new ResizeObserver(() => {
      for (const [box, one] of drawn) if (box.clientWidth && box.clientWidth !== one.plot.width) one.plot.setSize({ width: box.clientWidth, height: HEIGHT });
    }).observe(document.getElementById("live"));
  });
  document.addEventListener("livechange", () => drawAll());
  document.addEventListener("themechange", () => drawAll(true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(true));
})();
