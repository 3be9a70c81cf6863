// A stack's gain over its twin, evaluation by evaluation, with its margin and looks.

import { count, figure, seedColor } from "./format";
import type { Evaluation, Look } from "./types";

const MOST = 2; // stacks that are shown, the last ones

export function Courses({ evaluations, looks }: { evaluations: Evaluation[]; looks: Look[] }) {
  const seeds = [...new Set(evaluations.map((each) => each.seed_id))].slice(-MOST);
  return (
    <>
      {seeds.map((seed) => (
        <Course key={seed} seed={seed} own={evaluations.filter((each) => each.seed_id === seed)} looks={looks.filter((look) => look.seed_id === seed)} />
      ))}
    </>
  );
}

function Course({ seed, own, looks }: { seed: string; own: Evaluation[]; looks: Look[] }) {
  const known = own.filter((each): each is { seed_id: string; step: number; gain: number; standard_error: number } => each.gain !== null && each.standard_error !== null);
  if (known.length === 0) return null;
  const [width, height, left] = [560, 180, 56];
  const margin = looks.find((look) => look.margin != null)?.margin ?? null;
  const values = known.flatMap((each) => [each.gain - each.standard_error, each.gain + each.standard_error, 0, margin ?? 0]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [first, last] = [known[0].step, known[known.length - 1].step];
  const x = (step: number) => left + 12 + ((step - first) / (last - first || 1)) * (width - left - 24);
  const y = (value: number) => 10 + ((high - value) / (high - low || 1)) * (height - 40);
  const color = seedColor(seed);
  return (
    <div>
      <svg class="gains" viewBox={`0 0 ${width} ${height}`} role="img" aria-label={`Gain of ${seed} over its twin at ${known.length} evaluations, now ${figure(known[known.length - 1].gain)}`}>
        {[low, 0, high].map((tick) => (
          <text key={tick} x={left - 6} y={y(tick) + 4} text-anchor="end" class="soft">
            {figure(tick, 3)}
          </text>
        ))}
        <line x1={left} x2={width} y1={y(0)} y2={y(0)} class="axis" />
        {margin !== null && <line x1={left} x2={width} y1={y(margin)} y2={y(margin)} class="margin" stroke-dasharray="3 3" />}
        {looks.map((look) => (
          <line key={look.look} x1={x(look.step)} x2={x(look.step)} y1="10" y2={height - 30} class="grid" stroke-width="2">
            <title>{look.sentence}</title>
          </line>
        ))}
        {known.map((each) => (
          <g key={each.step} style={{ stroke: color, fill: color }}>
            <line x1={x(each.step)} x2={x(each.step)} y1={y(each.gain - each.standard_error)} y2={y(each.gain + each.standard_error)} />
            <circle cx={x(each.step)} cy={y(each.gain)} r="3" />
          </g>
        ))}
        <text x={left} y={height - 8} class="soft">
          step {count(first)}
        </text>
        <text x={width} y={height - 8} text-anchor="end" class="soft">
          {count(last)}
        </text>
      </svg>
      <p class="note">
        {seed}: gain over its twin at each evaluation, ± one standard error of the documents; dashed the margin, upright lines its looks.
      </p>
    </div>
  );
}
