-- Takes back a statement that should have moved `wanted` rows and moved another number: a row was not any more what it
-- was when it was read. So a statement that decides on what was read before needs no lock and no transaction around it.
CREATE FUNCTION all_moved(moved bigint, wanted bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF moved <> wanted THEN
        RAISE EXCEPTION '% of % rows were as expected', moved, wanted USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN true;
END
$$;
