// Why the run grows or doesn't now, and what the judge said last.

import { hasGain } from "./figures";
import { count, figure, signed, VERDICT } from "./format";
import type { Look, Seed, View } from "./types";

export function GrowthNow({ view }: { view: View }) {
  const { growth, last_refused: refused } = view;
  const since = growth.reason?.since_step;
  const asOf = growth.reason?.as_of_step;
  return (
    <section class="card" aria-label="Growth now">
      <h2>{growth.is_growing ? "Growing now" : "Why nothing grows now"}</h2>
      <p class="headline">{growth.headline}</p>
      {growth.reason && (
        <p class="quiet">
          {growth.is_growing || view.state.ended ? `The policy's last reason was ${growth.reason.words}, ` : "It holds "}
          since step {count(since)}
          {asOf != null && asOf !== since ? `; its numbers are of step ${count(asOf)}` : ""}.
        </p>
      )}
      {refused ? (
        <p>
          <b>Refused last:</b> {refused.seed_id}, at step {count(refused.step)}: {refused.reason}.
        </p>
      ) : (
        <p class="quiet">No seed has been refused.</p>
      )}
      <SeedList seeds={view.seeds} />
    </section>
  );
}

const LIVING = ["GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"];

function SeedList({ seeds }: { seeds: Seed[] }) {
  const living = seeds.filter((seed) => LIVING.includes(seed.stage));
  if (living.length === 0) return null;
  return (
    <ul class="plain">
      {living.map((seed) => (
        <li key={seed.seed_id}>
          <b>{seed.seed_id}</b> {seed.blueprint_id} in <code>{seed.slot_id}</code>, alpha {figure(seed.alpha, 2)}
        </li>
      ))}
    </ul>
  );
}

export function DecisionCard({ looks }: { looks: Look[] }) {
  const look = looks.at(-1);
  if (!look)
    return (
      <section class="card" aria-label="Last decision">
        <h2>Last decision</h2>
        <p class="quiet">No seed has been judged against its twin yet.</p>
      </section>
    );
  return (
    <section class="card" aria-label="Last decision">
      <h2>
        Last decision: {look.seed_id} <span class={look.verdict.toLowerCase()}>{VERDICT[look.verdict] ?? look.verdict.toLowerCase()}</span>
      </h2>
      {hasGain(look) && (
        <>
          <dl class="figures">
            <Figure name="gain g" value={signed(look.gain)} help="score of the twin less that of the grown network" />
            <Figure name="margin" value={figure(look.margin)} help="what a gain must exceed to be worth its cost" />
            <Figure name="error" value={figure(look.standard_error)} help="standard error of the gain" />
            <Figure name="z of bar" value={`${look.z.toFixed(2)} of ${look.z_threshold.toFixed(2)}`} help="(gain - margin) / error, and what this look asks for" />
            <Figure name="look" value={`${look.look}`} help="each look asks for more, so that looking often keeps nothing by chance" />
            <Figure name="samples" value={count(look.samples)} help="judging samples of both arms" />
          </dl>
          <Gauge z={look.z} bar={look.z_threshold} verdict={look.verdict} />
        </>
      )}
      <p>{look.sentence}.</p>
      <p class="quiet">Step {count(look.step)}; the judge: {look.detail}.</p>
    </section>
  );
}

function Figure({ name, value, help }: { name: string; value: string; help: string }) {
  return (
    <div title={help}>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function Gauge({ z, bar, verdict }: { z: number; bar: number; verdict: string }) {
  const top = Math.max(1.3 * bar, 1.1 * z);
  const low = Math.min(0, z);
  const place = (value: number) => `${(100 * (value - low)) / (top - low)}%`;
  return (
    <div class="gauge" role="img" aria-label={`z ${z.toFixed(2)} of ${bar.toFixed(2)}`}>
      <span class={`fill ${verdict.toLowerCase()}`} style={{ left: place(Math.min(0, z)), width: `${(100 * Math.abs(z)) / (top - low)}%` }} />
      <span class="bar-mark" style={{ left: place(bar) }} />
    </div>
  );
}
