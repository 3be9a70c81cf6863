// Where the page's values come from: the server, asked again and again, or what a report holds.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Live, Plane, View } from "./types";

const EVERY_MS = 1000;
const PLANE_EVERY_MS = 2000;
const LONGEST_MS = 8000;

const token = new URLSearchParams(location.search).get("token") ?? "";

export interface Shown {
  view: View | null;
  live: Live | null;
  // Milliseconds of this page's own clock at which the server last answered.
  heardAt: number | null;
  error: string | null;
}

const NOTHING: Shown = { view: null, live: null, heardAt: null, error: null };

async function asked<T>(path: string, given: Record<string, string>): Promise<T> {
  const query = new URLSearchParams(given);
  const answer = await fetch(`${path}?${query}`, {
    headers: { Authorization: `Bearer ${token}` },
    signal: AbortSignal.timeout(LONGEST_MS),
  });
  const kind = answer.headers.get("Content-Type") ?? "";
  if (kind.startsWith("application/json")) {
    const told = await answer.json();
    if (answer.ok) return told as T;
    throw new Error((told as { error?: string }).error ?? answer.statusText);
  }
  throw new Error((await answer.text()).trim() || answer.statusText);
}

// Asks again a while after each answer, never before it.
function useAsking(ask: () => Promise<void>, everyMs: number, keys: unknown[]): void {
  useEffect(() => {
    let isOver = false;
    let timer = 0;
    const go = async () => {
      await ask();
      if (!isOver) timer = window.setTimeout(go, everyMs);
    };
    void go();
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, keys);
}

export function useRuns(): { runs: string[]; jaeger: string; error: string | null } {
  const [found, setFound] = useState<{ runs: string[]; jaeger: string; error: string | null }>({ runs: [], jaeger: "", error: null });
  useAsking(
    async () => {
      try {
        const told = await asked<{ runs: string[]; jaeger: string }>("/api/runs", {});
        setFound({ ...told, error: null });
      } catch (error) {
        setFound((before) => ({ ...before, error: String((error as Error).message) }));
      }
    },
    5 * EVERY_MS,
    [],
  );
  return found;
}

export function useRun(name: string): Shown {
  const [shown, setShown] = useState<Shown>(NOTHING);
  const version = useRef("");
  useEffect(() => {
    version.current = "";
    setShown(NOTHING);
  }, [name]);
  useAsking(
    async () => {
      if (!name) return;
      try {
        const told = await asked<{ version: string; live: Live; view: View | null }>("/api/view", { run: name, since: version.current });
        version.current = told.version;
        setShown((before) => ({ view: told.view ?? before.view, live: told.live, heardAt: performance.now(), error: null }));
      } catch (error) {
        setShown((before) => ({ ...before, error: String((error as Error).message) }));
      }
    },
    EVERY_MS,
    [name],
  );
  return shown;
}

export function usePlane(name: string): Plane | null {
  const [plane, setPlane] = useState<Plane | null>(null);
  useAsking(
    async () => {
      if (!name) return;
      try {
        setPlane(await asked<Plane>("/api/plane", { run: name }));
      } catch (error) {
        setPlane({ error: String((error as Error).message), age_s: 0 });
      }
    },
    PLANE_EVERY_MS,
    [name],
  );
  return plane;
}

// The time of now, so that ages grow although nothing else changes.
export function useNow(everyMs = 500): number {
  const [now, setNow] = useState(performance.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(performance.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}
