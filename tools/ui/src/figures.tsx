// The two small charts and the bars: plain SVG and boxes, whose colours are the page's.

import { count, figure, seedColor, short, VERDICT } from "./format";
import type { Look, View } from "./types";

const MOST_LOOKS = 12;

// Each look's gain with what is certain of it: the lower end of its bar is the gain less the errors that the judge asks
// for. A look that ends above its margin is passed, so bar and verdict can't contradict each other.
export function Gains({ looks }: { looks: Look[] }) {
  const shown = looks.filter(hasGain).slice(-MOST_LOOKS);
  if (shown.length === 0) return <p class="quiet">No seed has been judged against its twin yet.</p>;
  const height = 200;
  const slot = 92;
  const left = 56;
  const width = left + slot * Math.max(shown.length, 4);
  const values = shown.flatMap((look) => [look.gain - sure(look), look.gain + sure(look), look.margin, 0]);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = 0.08 * (high - low || 1);
  const y = (value: number) => 12 + ((high + room - value) / (high - low + 2 * room)) * (height - 56);
  const ticks = nice(low, high);
  return (
    <div class="scroll">
      <svg class="gains" viewBox={`0 0 ${width} ${height}`} style={{ maxWidth: `${width * 1.2}px`, minWidth: `${width * 0.8}px` }} role="img" aria-label={shown.map((look) => look.sentence).join(". ")}>
        {ticks.map((tick) => (
          <g key={tick}>
            <line x1={left} x2={width} y1={y(tick)} y2={y(tick)} class={tick === 0 ? "axis" : "grid"} />
            <text x={left - 6} y={y(tick) + 4} text-anchor="end" class="soft">
              {figure(tick, 3)}
            </text>
          </g>
        ))}
        {shown.map((look, place) => {
          const x = left + slot * (place + 0.5);
          const color = seedColor(look.seed_id);
          return (
            <g key={`${look.seed_id}-${look.look}`}>
              <title>{look.sentence}</title>
              <line x1={x - 26} x2={x + 26} y1={y(look.margin)} y2={y(look.margin)} class="margin" />
              <line x1={x} x2={x} y1={y(look.gain - sure(look))} y2={y(look.gain + sure(look))} style={{ stroke: color }} stroke-width="2.5" />
              <line x1={x - 7} x2={x + 7} y1={y(look.gain - sure(look))} y2={y(look.gain - sure(look))} style={{ stroke: color }} stroke-width="2.5" />
              <circle cx={x} cy={y(look.gain)} r="4.5" style={{ fill: color }} />
              <text x={x} y={height - 26} text-anchor="middle" class="soft">
                {look.seed_id.slice(0, 8)} look {look.look}
              </text>
              <text x={x} y={height - 9} text-anchor="middle" class={look.verdict.toLowerCase()}>
                {VERDICT[look.verdict] ?? look.verdict.toLowerCase()}
              </text>
            </g>
          );
        })}
      </svg>
      <p class="note">
        Gain over the twin in the judge's score. The short line is the margin; a bar reaches as many standard errors as the look asked for. A seed is kept when its
        bar ends above the margin.
      </p>
    </div>
  );
}

type Measured = Look & { gain: number; margin: number; standard_error: number; z: number; z_threshold: number };

export const hasGain = (look: Look): look is Measured =>
  [look.gain, look.margin, look.standard_error, look.z, look.z_threshold].every((value) => value != null);

const sure = (look: Measured): number => look.z_threshold * look.standard_error;

function nice(low: number, high: number): number[] {
  const rough = (high - low || 1) / 4;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * unit).find((each) => each >= rough) ?? rough;
  const ticks = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) ticks.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return ticks;
}

const PARTS = ["step", "packet", "growth", "waiting"];
const PART_WORDS: Record<string, string> = {
  step: "training step, twin's included",
  packet: "events and packets",
  growth: "grafts, folds and looks",
  waiting: "waiting for answers",
};
const PEAK = 4; // a stretch this many times above nearly all others is cut, or it alone could be seen

export function StepTime({ times }: { times: View["step_time"] }) {
  const { steps, parts, mean_ms } = times;
  if (!mean_ms || steps.length === 0) return <p class="quiet">No step has been timed yet.</p>;
  const totals = steps.map((_, at) => PARTS.reduce((sum, part) => sum + (parts[part]?.[at] ?? 0), 0));
  const usual = [...totals].sort((a, b) => a - b)[Math.floor(0.9 * (totals.length - 1))];
  const peak = Math.max(...totals);
  const top = (peak > PEAK * usual && usual > 0 ? 2 * usual : peak) * 1.08 || 1;
  const [left, width, height] = [48, 560, 170];
  const x = (at: number) => left + (steps.length > 1 ? (at / (steps.length - 1)) * (width - left - 8) : (width - left) / 2);
  const y = (value: number) => Math.max(8, height - 24 - (value / top) * (height - 36));
  const mean = PARTS.reduce((sum, part) => sum + (mean_ms[part] ?? 0), 0);
  let below = steps.map(() => 0);
  const areas = PARTS.map((part) => {
    const above = below.map((value, at) => value + (parts[part]?.[at] ?? 0));
    const path = `M${above.map((value, at) => `${x(at)},${y(value)}`).join("L")}L${below.map((value, at) => `${x(at)},${y(value)}`).reverse().join("L")}Z`;
    below = above;
    return { part, path };
  });
  return (
    <div>
      <svg class="steptime" viewBox={`0 0 ${width} ${height}`} role="img" aria-label={`A step takes ${mean.toFixed(2)} milliseconds on average`}>
        {nice(0, top).map((tick) => (
          <g key={tick}>
            <line x1={left} x2={width} y1={y(tick)} y2={y(tick)} class="grid" />
            <text x={left - 6} y={y(tick) + 4} text-anchor="end" class="soft">
              {+tick.toPrecision(3)} ms
            </text>
          </g>
        ))}
        {areas.map(({ part, path }) => (
          <path key={part} d={path} class={`part-${part}`} />
        ))}
        <line x1={left} x2={width} y1={y(mean)} y2={y(mean)} class="mean" />
        <text x={left} y={height - 6} class="soft">
          step {count(steps[0])}
        </text>
        <text x={width} y={height - 6} text-anchor="end" class="soft">
          {count(steps.at(-1))}
        </text>
      </svg>
      <ul class="legend">
        {PARTS.map((part) => (
          <li key={part}>
            <i class={`part-${part}`} /> {PART_WORDS[part]} <b>{(mean_ms[part] ?? 0).toFixed(2)} ms</b>
          </li>
        ))}
        <li>
          <i class="mean" /> on average <b>{mean.toFixed(2)} ms a step</b>
        </li>
      </ul>
      {peak > PEAK * usual && <p class="note">The highest stretch, {peak.toFixed(1)} ms a step, leaves the picture.</p>}
    </div>
  );
}

const COST_WORDS: Record<string, string> = {
  host: "the network itself",
  seed: "seeds kept or on trial",
  twin: "their twins",
  judging: "incubation, probes, looks",
  failed: "seeds that were culled, work undone",
};

export function CostBar({ cost }: { cost: View["cost"] }) {
  if (!cost || cost.total === 0) return <p class="quiet">Nothing has been booked yet.</p>;
  const parts = Object.keys(COST_WORDS).map((part) => ({ part, macs: cost.parts[part] ?? 0 }));
  return (
    <div>
      <div class="bar" role="img" aria-label={parts.map(({ part, macs }) => `${part} ${share(macs, cost.total)}`).join(", ")}>
        {parts.filter(({ macs }) => macs > 0).map(({ part, macs }) => (
          <span key={part} class={`cost-${part}`} style={{ flexGrow: macs / cost.total }} title={`${part}: ${short(macs)}MACs`} />
        ))}
      </div>
      <ul class="legend">
        {parts.map(({ part, macs }) => (
          <li key={part} title={COST_WORDS[part]}>
            <i class={`cost-${part}`} /> {part} <b>{share(macs, cost.total)}</b>
          </li>
        ))}
        <li>
          <b>{short(cost.total)}MACs</b> in all
        </li>
      </ul>
      <p class="note">
        {parts.map(({ part }) => `${part}: ${COST_WORDS[part]}`).join("; ")}.
        {cost.seeds.length > 0 && ` ${cost.seeds.map((seed) => `${seed.seed_id} cost ${short(seed.macs)}MACs`).join(", ")}.`}
      </p>
    </div>
  );
}

const share = (macs: number, total: number): string => `${((100 * macs) / total).toFixed(1)} %`;
