// OpenAI's client for JavaScript: chat completions with its helpers, responses, embeddings.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { assert, City, embedding, model, question, report, url } from "./smoke.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const common = { model, temperature: 0, max_tokens: 40 };
const ask = { ...common, messages: [{ role: "user", content: question }] };

await report("openai", {
  async answer() {
    const whole = await client.chat.completions.create(ask);
    assert(whole.choices[0].message.content.includes("Paris"));
    assert(whole.choices[0].finish_reason === "stop" && whole.usage.total_tokens > 0);
    const messages = [...ask.messages, whole.choices[0].message, { role: "user", content: "Are you sure?" }];
    assert((await client.chat.completions.create({ ...common, messages })).choices[0].message.content);
  },
  async stream() {
    let text = "";
    for await (const chunk of await client.chat.completions.create({ ...ask, stream: true }))
      text += chunk.choices[0]?.delta.content ?? "";
    assert(text.includes("Paris"));
    assert((await client.chat.completions.stream(ask).finalContent()).includes("Paris"));
  },
  async parse() {
    const wanted = { ...ask, response_format: zodResponseFormat(City, "city") };
    City.parse((await client.chat.completions.parse(wanted)).choices[0].message.parsed);
  },
  async run_tools() {
    const seen = [];
    const weather = { name: "weather", parameters: City, function: (city) => (seen.push(city), "sunny") };
    const tools = [zodFunction(weather)];
    const named = { type: "function", function: { name: "weather" } };
    const messages = [...ask.messages];
    for (const stream of [false, true]) {
      const runner = client.chat.completions.runTools({ ...ask, messages, tools, tool_choice: named, stream });
      await runner.done();
      const sent = [...runner.messages, { role: "user", content: "Thank you." }];
      assert((await client.chat.completions.create({ ...common, messages: sent })).choices[0].message.content);
    }
    assert(seen.length === 2);
    seen.forEach((city) => City.parse(city));
  },
  async responses() {
    const input = [{ role: "user", content: question }];
    const wanted = { model, input, temperature: 0, max_output_tokens: 40 };
    const first = await client.responses.create(wanted);
    assert(first.output_text.includes("Paris"));
    const again = [...input, ...first.output, { role: "user", content: "Are you sure?" }];
    assert((await client.responses.create({ ...wanted, input: again })).output_text);
    assert((await client.responses.stream(wanted).finalResponse()).output_text.includes("Paris"));
    const text = { format: zodTextFormat(City, "city") };
    City.parse((await client.responses.parse({ ...wanted, text })).output_parsed);
  },
  async responses_tools() {
    const parameters = { type: "object", properties: { capital: { type: "boolean" } }, required: ["capital"] };
    const tools = [{ type: "function", name: "weather", parameters, strict: false }];
    const input = [{ role: "user", content: question }];
    const wanted = { model, input, tools, tool_choice: "required", temperature: 0, max_output_tokens: 40 };
    const { output } = await client.responses.create(wanted);
    const results = output.map(({ call_id }) => ({ type: "function_call_output", call_id, output: "sunny" }));
    const again = { ...wanted, input: [...input, ...output, ...results], tool_choice: "none" };
    assert((await client.responses.create(again)).output_text);
  },
  async embeddings() {
    assert((await client.embeddings.create({ model: embedding, input: "a llama" })).data[0].embedding.length === 384);
  },
  async unknown_model() {
    const error = await client.chat.completions.create({ ...ask, model: "unknown" }).catch((error) => error);
    assert(error instanceof OpenAI.NotFoundError);
  },
});
