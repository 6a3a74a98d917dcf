// What the scripts in JavaScript share; as smoke.py.
import { readFileSync } from "node:fs";
import * as z from "zod";

export const url = process.argv[2];
export const model = "smollm2-135m-instruct";
export const embedding = "all-minilm-l6-v2";
export const question = "What is the capital of France?";
export const City = z.object({ name: z.enum(["Paris", "Lima"]), capital: z.boolean() });

export function assert(held, message = "an assertion does not hold") {
  if (!held) throw new Error(message);
}

// Run the checks, print what came of them as one line of JSON, and exit with 1 if one failed.
export async function report(client, checks) {
  const ran = {};
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      ran[name] = "ok";
    } catch (error) {
      console.error(error);
      ran[name] = `${error.name}: ${error.message}`.slice(0, 300);
    }
  }
  const file = new URL(`../node_modules/${client}/package.json`, import.meta.url);
  console.log(JSON.stringify({ client, version: JSON.parse(readFileSync(file)).version, ran }));
  process.exit(Object.values(ran).every((outcome) => outcome === "ok") ? 0 : 1);
}
