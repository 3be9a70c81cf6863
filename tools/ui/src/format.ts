// Numbers and times as people read them.

const UNITS: [number, string][] = [
  [1e18, "E"],
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];

export const count = (value: number | null | undefined): string =>
  value == null ? "–" : Math.round(value).toLocaleString("en-US");

export function short(value: number): string {
  const [scale, unit] = UNITS.find(([least]) => Math.abs(value) >= least) ?? [1, ""];
  const scaled = value / scale;
  const digits = unit ? scaled.toPrecision(3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "") : `${Math.round(scaled * 100) / 100}`;
  return unit ? `${digits} ${unit}` : digits;
}

export function figure(value: number | null | undefined, digits = 4): string {
  if (value == null) return "–";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(2);
  return value.toFixed(digits);
}

export const percent = (value: number | null | undefined): string =>
  value == null ? "–" : `${(100 * value).toFixed(2)} %`;

export const signed = (value: number): string => `${value >= 0 ? "+" : "−"}${figure(Math.abs(value))}`;

export function duration(seconds: number): string {
  if (seconds < 1) return "less than a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export const words = (name: string): string => name.replaceAll("_", " ").toLowerCase();

export const VERDICT: Record<string, string> = { PASS: "kept", FAIL: "refused", EXTEND: "undecided" };
export const FATE: Record<string, string> = { FOSSILIZED: "kept", CULLED: "culled", "": "undecided" };

const COLORS = 8;

// A seed's colour is the same wherever it is drawn.
export const seedColor = (seedId: string): string =>
  `var(--seed-${Number.parseInt(seedId.replace(/\D/g, "") || "0", 10) % COLORS})`;
