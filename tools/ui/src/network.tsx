// The network strip: layers with their widths before and now, equal blocks as one, slots and refusals.

import { count, short, words } from "./format";
import type { Layer, Network, Row, Slot } from "./types";

export function NetworkStrip({ network }: { network: Network | null }) {
  if (!network) return <p class="quiet">This run doesn't tell its layers; runs of this version do.</p>;
  const { parameters, rows, lists, slots, refused } = network;
  return (
    <div>
      <p class="depths">
        {count(parameters.before)} → <b>{count(parameters.now)}</b> parameters
        {lists.map((list) => (
          <span key={list.path}>
            {" "}
            · {list.path} {list.before} → <b>{list.now}</b> blocks
          </span>
        ))}
      </p>
      <ol class="strip">
        {rows.map((row) => (
          <Block key={row.path} row={row} />
        ))}
      </ol>
      <Slots slots={slots} />
      {refused.length > 0 && (
        <details open={refused.length <= 3}>
          <summary>
            {refused.length === 1 ? "One place" : `${refused.length} places`} where nothing can grow, and why
          </summary>
          <ul class="plain">
            {refused.map((each) => (
              <li key={each.slot + each.reason}>
                <code>{each.slot}</code> {each.reason}
              </li>
            ))}
          </ul>
        </details>
      )}
    </div>
  );
}

// Slots that a seed was in stand first; of many that are merely open, the number is enough.
function Slots({ slots }: { slots: Slot[] }) {
  const [open, used] = [slots.filter((slot) => slot.state === "open"), slots.filter((slot) => slot.state !== "open")];
  return (
    <>
      {used.length > 0 && <SlotList slots={used} />}
      {open.length > 0 && open.length <= MOST_OPEN && <SlotList slots={open} />}
      {open.length > MOST_OPEN && (
        <details>
          <summary>{open.length} slots are open, and no seed was in them</summary>
          <SlotList slots={open} />
        </details>
      )}
      {slots.length === 0 && <p class="quiet">No slot: nothing can grow in this network.</p>}
    </>
  );
}

const MOST_OPEN = 4;

function SlotList({ slots }: { slots: Slot[] }) {
  return (
    <ul class="slots" aria-label="Slots">
      {slots.map((slot) => (
        <li key={slot.slot_id} class={slot.state.split(",")[0].replaceAll(" ", "-")} title={slot.fold_obstacle && `a kept seed stays a module: ${slot.fold_obstacle}`}>
          <code>{slot.slot_id}</code> <b>{slot.seed_id && !slot.state.includes(slot.seed_id) ? `${slot.seed_id} ${slot.state}` : slot.state}</b>
        </li>
      ))}
    </ul>
  );
}

function Block({ row }: { row: Row }) {
  const isNew = row.layers.every((layer) => layer.before === null);
  const has = row.layers.some((layer) => layer.before !== null && layer.before !== layer.now);
  return (
    <li class={isNew ? "new" : has ? "grown" : ""} title={`${count(row.parameters)} parameters`}>
      <span class="path">{row.path}</span>
      {row.count > 1 && <span class="times">× {row.count}</span>}
      {isNew && <span class="times">new</span>}
      {row.layers.length === 1 ? <Width layer={row.layers[0]} hasName={false} /> : row.layers.filter(isTold(row)).map((layer) => <Width key={layer.path} layer={layer} hasName />)}
      <span class="size">{short(row.parameters)} parameters</span>
    </li>
  );
}

// Of a block, what changed; of one that didn't change, how many layers are in it.
const isTold = (row: Row) => {
  const changed = row.layers.filter((layer) => layer.before !== null && layer.before !== layer.now);
  return (layer: Layer) => (changed.length > 0 ? changed.includes(layer) : layer === widest(row));
};

const widest = (row: Row): Layer => row.layers.reduce((most, layer) => (layer.now > most.now ? layer : most));

function Width({ layer, hasName }: { layer: Layer; hasName: boolean }) {
  const isSame = layer.before === null || layer.before === layer.now;
  return (
    <span class="width" title={`${layer.path}: ${layer.kind}`}>
      {hasName ? `${layer.path} ` : ""}
      {isSame ? layer.now : `${layer.before} → `}
      {!isSame && <b>{layer.now}</b>}
      <span class="kind"> {words(layer.kind)}</span>
    </span>
  );
}
