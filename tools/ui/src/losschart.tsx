// The loss chart: one chart whose x is steps, work or time. Its zoom is kept in steps, so that neither news nor another
// axis takes it away.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { type Axis, fromStep, toStep } from "./clock";
import { type Quantity, type Series, seriesOf, type Window, windowsOf } from "./curves";
import { count, duration, FATE, figure, seedColor, short } from "./format";
import type { Clock, View } from "./types";

const AXES: [Axis, string][] = [
  ["step", "steps"],
  ["macs", "MACs, all booked"],
  ["seconds", "wall time"],
];
const HEIGHT = 330;
const FIRST_SHARE = 0.05; // of the run, whose losses may leave the picture
const HEADROOM = 0.22; // of the picture's height, for the seeds' names

type Range = [number, number] | null;

export function LossChart({ view, beside }: { view: View; beside: View | null }) {
  const [axis, setAxis] = useState<Axis>("step");
  const [quantity, setQuantity] = useState<Quantity>("loss");
  const [isLog, setLog] = useState(false);
  const [zoom, setZoom] = useState<Range>(null);
  const [at, setAt] = useState<number | null>(null);
  const box = useRef<HTMLDivElement>(null);
  useUplot(box, { view, beside, axis, quantity, isLog, zoom, setZoom, setAt });
  const last = lastStep(view);
  return (
    <figure class="chart" aria-label="Loss">
      <div class="controls">
        <Choice name="y" value={quantity} onPick={setQuantity} options={[["loss", "loss"], ["accuracy", "accuracy"]]} />
        <Choice name="x" value={axis} onPick={setAxis} options={AXES} />
        <label class="tick">
          <input type="checkbox" checked={isLog} onChange={(event) => setLog(event.currentTarget.checked)} /> log
        </label>
        <button type="button" disabled={zoom === null} onClick={() => setZoom(null)}>
          show all
        </button>
      </div>
      <div
        ref={box}
        class="plot"
        role="img"
        tabIndex={0}
        aria-label={described(view)}
        onKeyDown={(event) => {
          const moved = moveOf(event.key, zoom ?? [0, last], last);
          if (moved === undefined) return;
          event.preventDefault();
          setZoom(moved);
        }}
      />
      <figcaption>
        <Legend view={view} beside={beside} quantity={quantity} />
        <span class="readout">{at === null ? hint(zoom) : readout(view, at)}</span>
      </figcaption>
      <p class="note">{view.loss.note} {TOLD}</p>
    </figure>
  );
}

const TOLD =
  "At each graft the run forks: the grown arm and its twin, which was never grafted, train on the same batches. The " +
  "shaded window ends with the verdict; the network goes on from the arm that was kept.";

export function Choice<T extends string>(given: {
  name: string;
  value: T;
  options: [T, string][];
  onPick: (value: T) => void;
}) {
  return (
    <span class="choice" role="group" aria-label={`${given.name} axis`}>
      {given.options.map(([value, label]) => (
        <button type="button" key={value} aria-pressed={value === given.value} onClick={() => given.onPick(value)}>
          {label}
        </button>
      ))}
    </span>
  );
}

function Legend({ view, beside, quantity }: { view: View; beside: View | null; quantity: Quantity }) {
  const other = beside && <Key color="var(--other)" text={beside.run.run_id ?? "the other run"} />;
  if (quantity === "accuracy")
    return (
      <>
        <Key color="var(--judged)" text="accuracy on the judging data" />
        {other}
      </>
    );
  return (
    <>
      <Key color="var(--faint)" text="training loss" />
      <Key color="var(--ink)" text="smoothed" />
      {view.loss.forks.length > 0 && <Key color="var(--ink)" text="twin" isDashed />}
      {view.loss.forks.map((fork) => (
        <Key key={fork.seed_id} color={seedColor(fork.seed_id)} text={`with ${fork.seed_id}`} />
      ))}
      <Key color="var(--judged)" text="judging loss" />
      {other}
    </>
  );
}



function Key({ color, text, isDashed = false }: { color: string; text: string; isDashed?: boolean }) {
  return (
    <span class="key">
      <svg width="22" height="8" aria-hidden="true">
        <line x1="0" y1="4" x2="22" y2="4" style={{ stroke: color }} stroke-width="2.5" stroke-dasharray={isDashed ? "5 4" : undefined} />
      </svg>
      {text}
    </span>
  );
}

const hint = (zoom: Range): string =>
  zoom === null ? "drag to zoom; keys + − ← → 0" : `steps ${count(zoom[0])} to ${count(zoom[1])}; 0 or a double click shows all`;

function readout(view: View, step: number): string {
  const { clock, measured, judged } = view.loss;
  const near = (points: [number, number | null][]) => points.find(([place]) => place >= step)?.[1];
  const judgedNow = near(judged);
  return [
    `step ${count(step)}`,
    `${short(fromStep(clock, "macs", step))}MACs`,
    duration(fromStep(clock, "seconds", step)),
    `loss ${figure(near(measured))}`,
    judgedNow == null ? "" : `judging ${figure(judgedNow)}`,
  ]
    .filter(Boolean)
    .join(" · ");
}

const lastStep = (view: View): number => view.loss.clock.step.at(-1) || 1;

function described(view: View): string {
  const fates = view.loss.windows.map((life) => `${life.seed_id} ${FATE[life.fate] ?? life.fate} at step ${life.end}`);
  const grown = fates.length ? `; ${fates.join(", ")}` : "; no seed was grafted";
  return `Loss over ${count(lastStep(view))} steps, smoothed now ${figure(view.progress.smoothed_loss)}${grown}`;
}

// What a key does to the zoom; undefined where it does nothing.
function moveOf(key: string, [low, high]: [number, number], last: number): Range | undefined {
  const width = high - low;
  const middle = (low + high) / 2;
  const within = (start: number, size: number): Range => {
    if (size >= last) return null;
    const from = Math.min(Math.max(0, start), last - size);
    return [from, from + size];
  };
  switch (key) {
    case "+":
    case "=":
      return within(middle - width / 4, width / 2);
    case "-":
      return within(middle - width, width * 2);
    case "ArrowLeft":
      return within(low - width / 5, width);
    case "ArrowRight":
      return within(low + width / 5, width);
    case "0":
    case "Escape":
      return null;
  }
  return undefined;
}

interface Drawn {
  view: View;
  beside: View | null;
  axis: Axis;
  quantity: Quantity;
  isLog: boolean;
  zoom: Range;
  setZoom: (zoom: Range) => void;
  setAt: (step: number | null) => void;
}

function useUplot(box: { current: HTMLDivElement | null }, drawn: Drawn): void {
  const now = useRef(drawn);
  now.current = drawn;
  const plot = useRef<uPlot | null>(null);
  const shape = useRef("");
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const series = seriesOf(drawn.view, drawn.beside, drawn.quantity);
    const wanted = JSON.stringify([drawn.axis, drawn.quantity, drawn.isLog, series.map((each) => [each.label, each.width])]);
    if (plot.current === null || shape.current !== wanted) {
      plot.current?.destroy();
      plot.current = made(element, series, now);
      shape.current = wanted;
    }
    const u = plot.current;
    u.batch(() => {
      u.setData(joined(series, drawn.view.loss.clock, drawn.beside?.loss.clock ?? null, drawn.axis), false);
      const [low, high] = drawn.zoom ?? [0, Math.max(lastStep(drawn.view), drawn.beside ? lastStep(drawn.beside) : 0)];
      const clock = longest(drawn);
      u.setScale("x", { min: fromStep(clock, drawn.axis, low), max: fromStep(clock, drawn.axis, high) });
    });
  });
  useEffect(() => {
    const fit = () => {
      const element = box.current;
      if (element && plot.current) plot.current.setSize({ width: element.clientWidth, height: HEIGHT });
    };
    const watch = new ResizeObserver(fit);
    if (box.current) watch.observe(box.current);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const repaint = () => plot.current?.redraw(false, true);
    dark.addEventListener("change", repaint);
    return () => {
      watch.disconnect();
      dark.removeEventListener("change", repaint);
      plot.current?.destroy();
      plot.current = null;
    };
  }, []);
}

const longest = ({ view, beside }: Drawn): Clock =>
  beside && lastStep(beside) > lastStep(view) ? beside.loss.clock : view.loss.clock;

// Each series has its own x; joined, each misses those of the others, which is no gap.
function joined(series: Series[], clock: Clock, other: Clock | null, axis: Axis): uPlot.AlignedData {
  const tables = series.map(({ points, color }) => {
    const own = color === "var(--other)" && other ? other : clock;
    const known = points.filter(([, value]) => value !== null);
    return [known.map(([step]) => fromStep(own, axis, step)), known.map(([, value]) => value)] as uPlot.AlignedData;
  });
  const filled = tables.filter(([xs]) => xs.length > 0);
  if (filled.length === 0) return [[0], ...series.map(() => [null])] as uPlot.AlignedData;
  const all = uPlot.join(filled);
  let place = 1;
  return [all[0], ...tables.map(([xs]) => (xs.length > 0 ? all[place++] : Array.from(all[0], () => undefined)))] as uPlot.AlignedData;
}

const paint = (name: string): string => {
  const found = /^var\((--[\w-]+)\)$/.exec(name);
  return found ? getComputedStyle(document.documentElement).getPropertyValue(found[1]).trim() : name;
};

function made(element: HTMLDivElement, series: Series[], now: { current: Drawn }): uPlot {
  const { axis, quantity, isLog } = now.current;
  const grid = { stroke: () => paint("var(--line)"), width: 1 };
  const ticks = { ...grid, size: 4 };
  const font = "12px system-ui, sans-serif";
  const options: uPlot.Options = {
    width: element.clientWidth || 600,
    height: HEIGHT,
    padding: [6, 24, 0, 0],
    legend: { show: false },
    cursor: { drag: { x: true, y: false, setScale: false }, points: { show: false } },
    scales: {
      x: { time: false },
      y: { distr: isLog ? 3 : 1, range: (u, low, high) => rangeOf(u, series, low, high, isLog, quantity) },
    },
    axes: [
      { stroke: () => paint("var(--soft)"), grid, ticks, font, values: (_, splits) => splits.map((at) => tickOf(axis, at)) },
      { stroke: () => paint("var(--soft)"), grid, ticks, font, size: 56 },
    ],
    series: [
      {},
      ...series.map((each) => ({
        label: each.label,
        stroke: () => paint(each.color),
        width: each.width,
        dash: each.dash,
        spanGaps: true,
        points: { show: each.points.length === 1 },
      })),
    ],
    hooks: {
      drawClear: [(u) => shade(u, now.current)],
      draw: [(u) => name(u, now.current)],
      setSelect: [(u) => select(u, now.current)],
      setCursor: [(u) => point(u, now.current)],
    },
  };
  const plot = new uPlot(options, [[0], ...series.map(() => [null])] as uPlot.AlignedData, element);
  plot.over.addEventListener("dblclick", () => now.current.setZoom(null));
  return plot;
}

function tickOf(axis: Axis, at: number): string {
  if (axis === "seconds") return at < 120 ? `${at} s` : at < 7200 ? `${+(at / 60).toFixed(1)} min` : `${+(at / 3600).toFixed(1)} h`;
  return axis === "macs" ? short(at) : count(at);
}

// The smoothed curves are wholly in the picture, the first steps' losses may leave it, and names have room above.
function rangeOf(u: uPlot, series: Series[], low: number, high: number, isLog: boolean, quantity: Quantity): [number, number] {
  if (quantity === "accuracy" && !isLog) return [0, 1.2];
  const xs = u.data[0];
  const { min = 0, max = 1 } = u.scales.x;
  const first = min === 0 ? FIRST_SHARE * max : min;
  const seen: number[] = [];
  series.forEach((each, place) => {
    if (!each.sets_scale) return;
    const ys = u.data[place + 1];
    for (let at = 0; at < xs.length; at++) {
      const value = ys[at];
      if (value != null && xs[at] >= first && xs[at] <= max) seen.push(value);
    }
  });
  const bottom = seen.length ? Math.min(...seen) : (low ?? 0);
  const top = seen.length ? Math.max(...seen) : (high ?? 1);
  if (isLog) return [Math.max(bottom * 0.8, 1e-9), Math.max(top * 2, bottom * 2, 1e-8)];
  const room = top - bottom || Math.abs(top) || 1;
  const floor = bottom - 0.06 * room;
  return [bottom >= 0 ? Math.max(0, floor) : floor, top + HEADROOM * room];
}

function shade(u: uPlot, { view, axis }: Drawn): void {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  for (const window of windowsOf(view)) {
    const [left, right] = edges(u, view, axis, window);
    ctx.fillStyle = paint(window.color);
    ctx.globalAlpha = window.fate === "FOSSILIZED" ? 0.18 : 0.1;
    ctx.fillRect(left, bbox.top, Math.max(1, right - left), bbox.height);
  }
  ctx.restore();
}

function name(u: uPlot, { view, axis }: Drawn): void {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio || 1;
  ctx.save();
  ctx.font = `${12 * ratio}px system-ui, sans-serif`;
  ctx.textBaseline = "top";
  for (const window of windowsOf(view)) {
    const [left, right] = edges(u, view, axis, window);
    const end = Math.min(right, bbox.left + bbox.width);
    if (right <= bbox.left || left >= bbox.left + bbox.width) continue;
    ctx.strokeStyle = ctx.fillStyle = paint(window.color);
    ctx.lineWidth = 1.5 * ratio;
    ctx.setLineDash(window.fate === "FOSSILIZED" ? [] : [3 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(end, bbox.top);
    ctx.lineTo(end, bbox.top + bbox.height);
    ctx.stroke();
    const texts = [window.seed_id, FATE[window.fate] ?? window.fate];
    const widest = Math.max(...texts.map((text) => ctx.measureText(text).width));
    const isRoomy = end - Math.max(left, bbox.left) > widest + 8 * ratio;
    ctx.textAlign = isRoomy ? "right" : "left";
    texts.forEach((text, row) => ctx.fillText(text, end + (isRoomy ? -5 : 5) * ratio, bbox.top + (3 + 14 * row) * ratio));
  }
  ctx.restore();
}

const edges = (u: uPlot, view: View, axis: Axis, { start, end }: Window): [number, number] => [
  u.valToPos(fromStep(view.loss.clock, axis, start), "x", true),
  u.valToPos(fromStep(view.loss.clock, axis, end), "x", true),
];

function select(u: uPlot, drawn: Drawn): void {
  const { left, width } = u.select;
  if (width < 4) return;
  const clock = longest(drawn);
  const [low, high] = [left, left + width].map((place) => toStep(clock, drawn.axis, u.posToVal(place, "x")));
  u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  if (high > low) drawn.setZoom([low, high]);
}

function point(u: uPlot, drawn: Drawn): void {
  const left = u.cursor.left ?? -1;
  drawn.setAt(left < 0 ? null : Math.round(toStep(longest(drawn), drawn.axis, u.posToVal(left, "x"))));
}
